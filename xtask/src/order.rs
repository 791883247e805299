//! The order of functions in the binary: those that a launch runs lie next to each other.
//!
//! A process maps its code in windows of 64 KiB as it runs into them (Linux, mm/memory.c,
//! `do_fault_around`), and each page of them is unmapped when it ends. What a launch runs is a
//! fifteenth of the code; spread over all of it, that took a sixth of a launch's time.
//!
//! So the commands that have to be fast are run instruction by instruction, and the sections they ran
//! through are listed for the linker. The list has names without their hashes, so that it holds on
//! every machine, and what it has too much or too little costs some time only: it need not be
//! written anew with every change.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{cargo, run};
use crate::stepped;

/// Given to the linker by crates/postroj/build.rs.
const SCRIPT: &str = "crates/postroj/startup.ld";

/// What has to be fast. The lines marked by `!` only prepare and clear up.
const LINES: [&str; 12] = [
    "! pull dir:$WORK/rootfs",
    "! tag dir:$WORK/rootfs order:1",
    "run --network none order:1 true",
    "oci --root $WORK/oci --cgroup-manager disabled create --bundle $WORK order",
    "oci --root $WORK/oci start order",
    "oci --root $WORK/oci state order",
    "oci --root $WORK/oci delete --force order",
    "bwrap --bind $WORK/rootfs / --unshare-all --dev /dev --proc /proc --tmpfs /tmp true",
    "run -d --network none --name order order:1 sleep 3600",
    "exec order true",
    "ps",
    "! rm -f order",
];

/// Writes the list.
///
/// # Errors
/// Where the binary cannot be built, or a command cannot be followed or fails.
pub(crate) fn write() -> Result<()> {
    let work = std::env::temp_dir().join(format!("postroj-order-{}", std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("making {}", work.display()))?;
    let written = write_with(&work);
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    written
}

fn write_with(work: &Path) -> Result<()> {
    let map = work.join("map");
    let mut build = cargo();
    build.args(["rustc", "--release", "--locked", "--package=postroj", "--bin=postroj", "--"]);
    run(build.arg(format!("-Clink-arg=-Wl,-Map={}", map.display())))?;
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let program = fs::canonicalize(format!("target/{target}/release/postroj"))
        .context("finding what was built")?;
    let map = fs::read_to_string(&map).with_context(|| format!("reading {}", map.display()))?;
    let mut list = List::new(sections(&map));
    bundle(work, &program)?;
    for line in LINES {
        let line = line.replace("$WORK", &work.display().to_string());
        if let Some(line) = line.strip_prefix("! ") {
            run(surroundings(Command::new(&program).args(line.split(' ')), work))?;
            continue;
        }
        eprintln!("following `postroj {line}`");
        for address in stepped::follow(&program, &line, work)? {
            list.note(address);
        }
    }
    fs::write(SCRIPT, list.script()).with_context(|| format!("writing {SCRIPT}"))
}

/// A store and a run directory of its own.
pub(crate) fn surroundings<'a>(command: &'a mut Command, work: &Path) -> &'a mut Command {
    command
        .env("POSTROJ_STORE", work.join("store"))
        .env("POSTROJ_RUNROOT", work.join("run"))
        .current_dir(work)
}

/// A static busybox as a root file system, and the configuration that `spec` writes.
fn bundle(work: &Path, program: &Path) -> Result<()> {
    let bin = work.join("rootfs/bin");
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        let dir = work.join("rootfs").join(name);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    for name in ["true", "sleep", "sh"] {
        fs::copy("/bin/busybox", bin.join(name)).context("busybox-static is not installed")?;
    }
    run(surroundings(Command::new(program).args(["oci", "spec"]), work))?;
    let file = work.join("config.json");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let text = text.replace("\"terminal\": true", "\"terminal\": false");
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
}

/// A piece of the code that the linker places as a whole.
struct Section {
    start: u64,
    size: u64,
    /// How it is named in a script.
    pattern: String,
}

/// Reads a map of `lld -Map`: its lines of input sections end in `FILE:(SECTION)`.
fn sections(map: &str) -> Vec<Section> {
    let hexadecimal = |word: &str| u64::from_str_radix(word, 16).ok();
    let mut list: Vec<Section> = map
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let start = hexadecimal(words.next()?)?;
            let size = hexadecimal(words.nth(1)?)?;
            let (file, section) = words.nth(1)?.strip_suffix(')')?.rsplit_once(":(")?;
            Some(Section { start, size, pattern: pattern(file, section)? })
        })
        .collect();
    list.sort_by_key(|section| section.start);
    list
}

/// A function of Rust's by its name without the hash; C's by the archive's member.
fn pattern(file: &str, section: &str) -> Option<String> {
    if !section.starts_with(".text") {
        return None;
    }
    if let Some((archive, member)) = file.strip_suffix(')').and_then(|file| file.rsplit_once('(')) {
        let archive = Path::new(archive).file_name()?.to_str()?;
        // Those of crates have a hash in their names, too.
        return archive.ends_with(".a").then(|| format!("*{archive}:{member}({section})"));
    }
    // rustc's legacy symbol mangling, which its standard library has: 16 digits after a length of 17.
    if let Some((name, hash)) = section.rsplit_once("17h").filter(|(_, hash)| hash.len() == 17) {
        debug_assert!(hash.ends_with('E'));
        return Some(format!("*({name}17h*)"));
    }
    section.starts_with(".text._R").then(|| format!("*({})", without_hashes(section)))
}

/// A name of rustc's v0 symbol mangling (RFC 2603) without what another machine has otherwise: the hashes of
/// crates (`Cs…_`), and references by positions in the name (`B…_`), which their lengths move.
fn without_hashes(name: &str) -> String {
    let mut text = String::new();
    let mut rest = name;
    while let Some(at) = rest.find(['B', 'C']) {
        let (before, found) = rest.split_at(at);
        let tag = if found.starts_with("Cs") { 2 } else { 1 };
        let digits = found[tag..].chars().take_while(char::is_ascii_alphanumeric).count();
        let is_hash = found[tag + digits..].starts_with('_')
            && (tag == 2 || found.starts_with('B') && digits <= 3);
        text.push_str(before);
        text.push_str(&found[..tag]);
        rest = &found[tag..];
        if is_hash {
            text.push('*');
            rest = &rest[digits..];
        }
    }
    text + rest
}

/// What was run through.
struct List {
    sections: Vec<Section>,
    hit: Vec<bool>,
    /// In the order of their first run.
    order: Vec<usize>,
}

impl List {
    fn new(sections: Vec<Section>) -> Self {
        Self { hit: vec![false; sections.len()], sections, order: Vec::new() }
    }

    fn note(&mut self, address: u64) {
        let after = self.sections.partition_point(|section| section.start <= address);
        let Some(at) = after.checked_sub(1) else { return };
        let section = &self.sections[at];
        if address < section.start + section.size && !std::mem::replace(&mut self.hit[at], true) {
            self.order.push(at);
        }
    }

    /// Generic functions have many instances under one name, and of most of them one is wanted: they
    /// come last, those first of which more is.
    fn script(&self) -> String {
        let mut sizes: HashMap<&str, (u64, u64)> = HashMap::new();
        for (section, hit) in self.sections.iter().zip(&self.hit) {
            let (wanted, all) = sizes.entry(&section.pattern).or_default();
            *all += section.size;
            *wanted += if *hit { section.size } else { 0 };
        }
        let mut seen = std::collections::HashSet::new();
        let mut patterns: Vec<&str> = self
            .order
            .iter()
            .map(|&at| self.sections[at].pattern.as_str())
            .filter(|pattern| seen.insert(*pattern))
            .collect();
        patterns.sort_by_key(|pattern| {
            let (wanted, all) = sizes[pattern];
            // How many times too much, rounded down; up to twice is as good as all.
            if all <= 2 * wanted + 512 { 0 } else { all / wanted.max(1) }
        });
        let lines: String = patterns.iter().map(|pattern| format!("    {pattern}\n")).collect();
        format!(
            "/* Written by `cargo xtask order`, which says what for. */\n\
             SECTIONS\n{{\n  .text.launch : {{\n{lines}  }}\n}}\nINSERT BEFORE .text;\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_on_every_machine() {
        let of = |section: &str| pattern("/x/postroj.rcgu.o", section).expect("a pattern");
        let name = ".text._RNvMs_NtCs1hashHASH_4core3fmtINtB4_5BoxedNtNtCs2_5alloc6StringE3fmt";
        let plain = "*(.text._RNvMs_NtCs*_4core3fmtINtB*_5BoxedNtNtCs*_5alloc6StringE3fmt)";
        assert_eq!(of(name), plain);
        let legacy = ".text._ZN3std2io5stdio6_print17h0123456789abcdefE";
        assert_eq!(of(legacy), "*(.text._ZN3std2io5stdio6_print17h*)");
        let member = pattern("/usr/lib/libc.a(malloc.o)", ".text");
        assert_eq!(member.as_deref(), Some("*libc.a:malloc.o(.text)"));
        assert_eq!(pattern("/x/libring-1.rlib(a.o)", ".text.f"), None);
        assert_eq!(pattern("/x/postroj.rcgu.o", ".rodata"), None);
    }
}
