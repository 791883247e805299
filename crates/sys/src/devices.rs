//! Which devices the processes of a control group may use: a program for the kernel's own machine
//! (bpf(2), `BPF_PROG_TYPE_CGROUP_DEVICE`; linux/bpf.h, `struct bpf_cgroup_dev_ctx`).

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// One rule; of several that fit, the last decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Or denied.
    pub allow: bool,
    /// `a`, `b` or `c`.
    pub kind: char,
    /// All of them where there is none.
    pub major: Option<u32>,
    /// All of them where there is none.
    pub minor: Option<u32>,
    /// About reading.
    pub read: bool,
    /// About writing.
    pub write: bool,
    /// About making nodes.
    pub make: bool,
}

/// `struct bpf_insn`: code, registers, offset and operand.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction(u8, u8, i16, i32);

// linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61;
const MOVE_NUMBER: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const AND_NUMBER: u8 = 0x57;
const SHIFT_RIGHT_NUMBER: u8 = 0x77;
const JUMP_IF_NOT_EQUAL: u8 = 0x55;
const JUMP_IF_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;
const ACCESS_MAKE: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Registers: 2 is the kind, 3 the access, 4 and 5 the numbers.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let from = |to: u8, from: u8| to | from << 4;
    let mut program = vec![
        Instruction(LOAD_WORD, from(2, 1), 0, 0),
        Instruction(MOVE, from(3, 2), 0, 0),
        Instruction(AND_NUMBER, 2, 0, 0xffff),
        Instruction(SHIFT_RIGHT_NUMBER, 3, 0, 16),
        Instruction(LOAD_WORD, from(4, 1), 4, 0),
        Instruction(LOAD_WORD, from(5, 1), 8, 0),
    ];
    // Nobody has said anything of a device that no rule fits.
    let rules = rules.iter().rev();
    for rule in rules {
        let mut tests = Vec::new();
        match rule.kind {
            'b' => tests.push((JUMP_IF_NOT_EQUAL, 2, BLOCK)),
            'c' => tests.push((JUMP_IF_NOT_EQUAL, 2, CHARACTER)),
            _ => {}
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            tests.extend(number.map(|n| (JUMP_IF_NOT_EQUAL, register, n.cast_signed())));
        }
        let access =
            [(rule.make, ACCESS_MAKE), (rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE)];
        let access = access.iter().filter(|(on, _)| *on).fold(0, |bits, (_, bit)| bits | bit);
        let masked = access != ACCESS_MAKE | ACCESS_READ | ACCESS_WRITE;
        // Every wish must be one that is allowed; one that is denied denies all.
        let check: &[Instruction] = &match rule.allow {
            true => [
                Instruction(MOVE, from(1, 3), 0, 0),
                Instruction(AND_NUMBER, 1, 0, access),
                Instruction(JUMP_IF_NOT_EQUAL_REGISTER, from(1, 3), 2, 0),
            ],
            false => [
                Instruction(MOVE, from(1, 3), 0, 0),
                Instruction(AND_NUMBER, 1, 0, access),
                // Jumps over when nothing of it is wished: see below.
                Instruction(0x15, 1, 2, 0),
            ],
        };
        let check = if masked { check } else { &[] };
        let length = tests.len() + check.len() + 2;
        for (at, (code, register, number)) in tests.into_iter().enumerate() {
            program.push(Instruction(code, register, (length - at - 1) as i16, number));
        }
        program.extend(check);
        program.push(Instruction(MOVE_NUMBER, 0, 0, i32::from(rule.allow)));
        program.push(Instruction(EXIT, 0, 0, 0));
    }
    program.push(Instruction(MOVE_NUMBER, 0, 0, 0));
    program.push(Instruction(EXIT, 0, 0, 0));
    program
}

/// Limits the group to what the rules allow. It lasts as long as the group.
///
/// # Errors
/// bpf(2)'s: `EPERM` without CAP_BPF or CAP_SYS_ADMIN.
pub fn attach(group: &Path, rules: &[Rule]) -> io::Result<()> {
    let program = compile(rules);
    let group = std::fs::File::open(group)?;
    let loaded = load(&program)?;
    let attributes = Attach {
        target: group.as_raw_fd(),
        program: loaded.as_raw_fd(),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes).map(drop)
}

const BPF_PROG_LOAD: i32 = 5;
const BPF_PROG_ATTACH: i32 = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

#[repr(C)]
struct Load {
    kind: u32,
    length: u32,
    instructions: u64,
    license: u64,
    log: [u64; 3],
}

#[repr(C)]
struct Attach {
    target: i32,
    program: i32,
    kind: u32,
    flags: u32,
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = Load {
        kind: BPF_PROG_TYPE_CGROUP_DEVICE,
        length: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 3],
    };
    let fd = bpf(BPF_PROG_LOAD, &attributes)?;
    // SAFETY: the kernel made a new descriptor for us, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as std::os::fd::RawFd) })
}

fn bpf<T>(command: i32, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the beginning of the command's attributes, of the size that is told; what they point
    // to outlives the call.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes as *const T, size_of::<T>()) };
    if done == -1 { Err(io::Error::last_os_error()) } else { Ok(done) }
}
