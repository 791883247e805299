//! How long a virtual machine takes until a command in it has answered, beside the least that there is: the same
//! QEMU with the same kernel and hardware, and an init that only says that it runs. And a command
//! in a machine that is up, beside a message there and back.
//!
//!     cargo build --release && cargo run --release -p benches --bin vm -- [RUNS]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use benches::{Candidate, alternate, report, set_up};

const IMAGE: &str = "debian-12";
const MACHINE: &str = "bench-vm";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floor", directory] => return floor(Path::new(directory)),
        ["answer"] => return answer(),
        _ => {}
    }
    let runs = args.first().map_or(Ok(10), |n| n.parse()).context("RUNS")?;
    let postroj = program()?;
    set_up(&postroj, &["pull", "--quiet", IMAGE])?;
    let directory = std::env::temp_dir().join(format!("postroj-bench-vm-{}", std::process::id()));
    std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
    let measured = measure(&directory, runs);
    let _ = set_up(&postroj, &["rm", "-f", MACHINE]);
    std::fs::remove_dir_all(&directory)?;
    measured
}

fn measure(directory: &Path, runs: usize) -> Result<()> {
    let (postroj, me) = (program()?, std::env::current_exe()?);
    let me = me.display();
    start()?;
    let prepared = prepare(directory);
    let exec = Candidate::new("exec true", &format!("{postroj} exec {MACHINE} true"));
    let execs = prepared.and_then(|()| alternate(&[exec], runs * 5));
    set_up(&postroj, &["rm", "-f", MACHINE])?;
    let floor = Candidate::new(
        "QEMU, kernel, an init that reports",
        &format!("{me} floor {}", directory.display()),
    );
    let again = format!("{postroj} rm -f {MACHINE}");
    let ready = Candidate::new("run --isolation vm -d, exec true", &format!("{me} answer"));
    let whole = format!("{postroj} run --isolation vm --network none {IMAGE} true");
    let whole = Candidate::new("run --isolation vm true", &whole);
    let ready = alternate(&[floor, ready.before(&again), whole], runs);
    report("until a virtual machine answers", &ready?);
    report("a command in a virtual machine that is up", &execs?);
    Ok(())
}

fn program() -> Result<String> {
    let postroj = std::env::current_exe()?.with_file_name("postroj");
    ensure!(postroj.exists(), "{} is missing: cargo build --release", postroj.display());
    Ok(postroj.to_str().context("a path that is not UTF-8")?.to_owned())
}

fn start() -> Result<()> {
    let postroj = program()?;
    let words = "run -d --isolation vm --network none --name";
    let mut command = Command::new(&postroj);
    command.args(words.split(' ')).args([MACHINE, IMAGE, "sleep", "infinity"]);
    // No pipe: what stays in the background may keep it open.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status().with_context(|| format!("cannot start {postroj}"))?;
    ensure!(status.success(), "the machine is not started: {status}");
    set_up(&postroj, &["exec", MACHINE, "true"])?;
    Ok(())
}

fn answer() -> Result<()> {
    start()
}

/// Takes QEMU's command line from the machine that is up, gives its port to our standard output, and makes a first
/// root of the same modules and the init that only reports.
fn prepare(directory: &Path) -> Result<()> {
    let qemu = qemu()?;
    let line =
        std::fs::read(format!("/proc/{qemu}/cmdline")).context("reading QEMU's arguments")?;
    let line = String::from_utf8(line).context("QEMU's arguments are not UTF-8")?;
    let mut args: Vec<String> = line.split_terminator('\0').map(str::to_owned).collect();
    args[0] = std::fs::read_link(format!("/proc/{qemu}/exe"))?.display().to_string();
    let mut port = Some("stdio,id=port0,signal=off".to_owned());
    for at in 1..args.len() {
        let value = args[at].clone();
        match &args[at - 1][..] {
            "-initrd" => {
                let initrd = std::fs::read(&value).with_context(|| format!("reading {value}"))?;
                let own = directory.join("initrd");
                std::fs::write(&own, archive(&initrd, &compiled(directory)?)?)?;
                args[at] = own.display().to_string();
            }
            "-chardev" => {
                let id = value.split(',').find_map(|part| part.strip_prefix("id=")).unwrap_or("x");
                args[at] = match port.take_if(|_| id == "port0") {
                    Some(port) => port,
                    None => format!("null,id={id}"),
                };
            }
            _ => {}
        }
    }
    ensure!(port.is_none(), "the machine has no port: {}", args.join(" "));
    std::fs::write(directory.join("qemu"), args.join("\0"))?;
    Ok(())
}

/// The process of the machine's QEMU: a descendant of the one that is listed.
fn qemu() -> Result<u32> {
    let machines: serde_json::Value =
        serde_json::from_str(&set_up(&program()?, &["ps", "--json"])?)?;
    let list = machines.as_array().context("`postroj ps` lists nothing")?;
    let machine = list.iter().find(|m| m["Name"] == MACHINE).context("it is not up")?;
    let mut pid = machine["Pid"].as_u64().context("it has no process")?;
    for _ in 0..4 {
        let name = std::fs::read_link(format!("/proc/{pid}/exe"))?;
        if name.to_string_lossy().contains("qemu") {
            return Ok(u32::try_from(pid)?);
        }
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        pid = children.split_whitespace().next().context("it has no QEMU")?.parse()?;
    }
    anyhow::bail!("no QEMU is below the machine's process")
}

fn compiled(directory: &Path) -> Result<Vec<u8>> {
    let (source, program) = (directory.join("init.c"), directory.join("init"));
    std::fs::write(&source, include_str!("../init.c"))?;
    let path = |path: &PathBuf| path.display().to_string();
    set_up("cc", &["-O2", "-static", "-o", &path(&program), &path(&source)])?;
    Ok(std::fs::read(program)?)
}

/// The archive's modules and devices with another init (the kernel's "initramfs buffer format").
fn archive(from: &[u8], init: &[u8]) -> Result<Vec<u8>> {
    let mut to = Vec::new();
    let mut at = 0;
    while at + 110 < from.len() {
        let number = |index: usize| -> Result<usize> {
            let start = at + 6 + index * 8;
            let digits = from.get(start..start + 8).context("the first root is cut")?;
            Ok(usize::from_str_radix(str::from_utf8(digits)?, 16)?)
        };
        let (size, length) = (number(6)?, number(11)?);
        let content = (at + 110 + length).next_multiple_of(4);
        let end = (content + size).next_multiple_of(4);
        let name = from.get(at + 110..at + 110 + length - 1).context("the first root is cut")?;
        let header = from.get(at..content).context("the first root is cut")?;
        if name == b"init" {
            let mut header = header.to_vec();
            header[54..62].copy_from_slice(format!("{:08X}", init.len()).as_bytes());
            to.extend(header);
            to.extend(init);
            to.resize(to.len().next_multiple_of(4), 0);
        } else {
            to.extend(from.get(at..end).context("the first root is cut")?);
        }
        if name == b"TRAILER!!!" {
            return Ok(to);
        }
        at = end;
    }
    anyhow::bail!("the first root has no end")
}

/// Starts it, waits until it reports, and kills it.
fn floor(directory: &Path) -> Result<()> {
    let line = std::fs::read_to_string(directory.join("qemu"))?;
    let mut args = line.split('\0');
    let mut command = Command::new(args.next().context("no program")?);
    // The guest waits for whoever reads its port: an input at its end would count as nobody.
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut qemu = command.spawn().context("cannot start QEMU")?;
    let mut said = [0; 6];
    let read = qemu.stdout.take().context("no output")?.read_exact(&mut said);
    qemu.kill()?;
    qemu.wait()?;
    read.context("the guest does not report")?;
    ensure!(&said == b"ready\n", "the guest says {said:?}");
    Ok(())
}
