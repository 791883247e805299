//! `kill -9` at random moments of virtual machines: of QEMU, of the guest's kernel, of each process of ours.
//! Afterwards somebody says why, and nothing is left.
//!
//! `POSTROJ_KILLS` says how often each is killed, where it is to be more than a few times.

mod fixture;

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use fixture::leash::Leash;
use fixture::{IMAGE, home, image, out, postroj, said, wait_until};
use rustix::process::{Pid, Signal};

/// How often each victim is killed, unless somebody says otherwise: each time a kernel starts.
const TIMES: u32 = 2;

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Qemu,
    /// The process between QEMU and everybody else.
    Shim,
    Monitor,
    /// Whoever asked for a machine in the background.
    Starter,
    /// All that runs inside, with the agent under it.
    Guest,
}

const VICTIMS: [Victim; 5] =
    [Victim::Qemu, Victim::Shim, Victim::Monitor, Victim::Starter, Victim::Guest];

/// A run directory of its own, by which all of its processes are known: they inherit its name.
struct Own {
    run: PathBuf,
    /// What an assertion that fails leaves.
    leash: Option<Leash>,
}

impl Own {
    fn new(name: &str) -> Self {
        let run = home().join(format!("vm-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        let leash = Some(Leash::new(&run));
        Self { run, leash }
    }

    fn postroj(&self, args: &[&str]) -> Command {
        let mut command = postroj(args);
        command.env("POSTROJ_RUNROOT", &self.run);
        command
    }

    /// Processes by id, with their names.
    fn processes(&self) -> Vec<(i32, String)> {
        let mark = format!("POSTROJ_RUNROOT={}\0", self.run.display());
        let ids = std::fs::read_dir("/proc").unwrap().flatten();
        let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        ids.filter_map(|id| {
            let environment = std::fs::read(format!("/proc/{id}/environ")).ok()?;
            let is_own = environment.windows(mark.len()).any(|w| w == mark.as_bytes());
            // QEMU is called as it was told, but by its first argument it is known.
            let line = std::fs::read(format!("/proc/{id}/cmdline")).ok()?;
            let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
            is_own.then(|| (id, String::from_utf8_lossy(program).into_owned()))
        })
        .collect()
    }

    /// The id of a victim, where it is there by now.
    fn id_of(&self, victim: Victim, starter: &Child) -> Option<i32> {
        let starter = starter.id() as i32;
        let processes = self.processes();
        let qemu =
            processes.iter().find(|(_, name)| name.contains("qemu-system")).map(|(id, _)| *id);
        // Each is the parent of the next one.
        let monitor = processes.iter().map(|(id, _)| *id).find(|id| parent(*id) == Some(starter));
        match victim {
            Victim::Qemu => qemu,
            Victim::Shim => qemu.and_then(parent),
            Victim::Monitor => monitor.or(qemu.and_then(parent).and_then(parent)),
            Victim::Starter => Some(starter),
            Victim::Guest => None,
        }
    }

    #[track_caller]
    fn nothing_is_left(&self, ids: &[String], case: &str) {
        let processes = || self.processes();
        wait_until(&format!("{case}: no process is left: {:?}", processes()), || {
            processes().is_empty()
        });
        for directory in ["machines", "sockets", "logs"] {
            let left = std::fs::read_dir(self.run.join(directory)).into_iter().flatten().flatten();
            let left: Vec<PathBuf> = left.map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "{case}: {left:?}");
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.run.to_str().unwrap()), "{case}: a mount is left");
        let layout = sys::cgroups::Layout::read().unwrap();
        for hierarchy in layout.legacy.iter().chain(&layout.unified) {
            for id in ids {
                assert!(!hierarchy.mount.join("postroj").join(id).exists(), "{case}: a group");
            }
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = std::fs::remove_dir_all(&self.run);
    }
}

/// proc_pid_stat(5), the fourth field.
fn parent(id: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn kill(id: i32) {
    // It may have ended meanwhile.
    let _ = rustix::process::kill_process(Pid::from_raw(id).unwrap(), Signal::KILL);
}

/// A moment up to `most`, another one each time.
fn moment(most: Duration) -> Duration {
    most.mul_f64(RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64)
}

const VM: [&str; 4] = ["--isolation", "vm", "--network", "none"];

/// Starts one in the background; gives its starter, and the file that this writes its words to.
fn start(own: &Own, name: &str) -> (Child, PathBuf) {
    let words = [&["run", "-d", "--name", name], &VM[..], &[IMAGE, "sleep", "1000"]].concat();
    let said = own.run.join(format!("{name}.said"));
    let file = File::create(&said).unwrap();
    let mut command = own.postroj(&words);
    let child = command.stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
    (child, said)
}

/// Ends a guest from inside: its kernel panics, with everything in it
/// (Linux, Documentation/admin-guide/sysrq.rst, `c`).
fn panic(own: &Own, name: &str) {
    let script = "echo c >/proc/sysrq-trigger";
    let _ = said(&mut own.postroj(&["exec", name, "sh", "-c", script]));
}

fn round(own: &Own, victim: Victim, number: u32, whole: Duration) {
    let name = format!("kill-{victim:?}-{number}").to_lowercase();
    let (mut starter, file) = start(own, &name);
    let moment = moment(whole.mul_f64(1.4));
    let case = format!("{victim:?} killed after {moment:?}");
    std::thread::sleep(moment);
    if victim == Victim::Guest {
        wait_until("it can be entered or has ended", || {
            let entered = said(&mut own.postroj(&["exec", &name, "true"])).code == 0;
            entered || starter.try_wait().unwrap().is_some()
        });
        panic(own, &name);
    } else {
        wait_until("the victim is there", || own.id_of(victim, &starter).is_some());
        own.id_of(victim, &starter).into_iter().for_each(kill);
    }
    let status = starter.wait().unwrap();
    let told = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    let inspected = said(&mut own.postroj(&["inspect", &name]));
    let ids: Vec<String> = serde_json::from_str::<serde_json::Value>(&inspected.out)
        .ok()
        .and_then(|shown| Some(vec![shown[0]["Id"].as_str()?.to_owned()]))
        .unwrap_or_default();
    verdict(own, victim, &name, (status.code(), &told), &case);
    out(&mut own.postroj(&["rm", "-f", &name]));
    own.nothing_is_left(&ids, &case);
}

/// Either the starter tells why there is no machine, or the machine's record does.
#[track_caller]
fn verdict(own: &Own, victim: Victim, name: &str, (code, told): (Option<i32>, &str), case: &str) {
    match code {
        // It could not say anything; a machine that was not reported goes with it.
        None => assert_eq!(victim, Victim::Starter, "{case}: {told}"),
        Some(0) if victim == Victim::Starter => {
            // It was killed after it had reported, which is no harm to anybody.
            assert_eq!(out(&mut own.postroj(&["exec", name, "echo", "alive"])), "alive", "{case}");
        }
        Some(0) => {
            let ended = out(&mut own.postroj(&["wait", name]));
            let log = said(&mut own.postroj(&["logs", name]));
            let log = log.out + &log.err;
            let wanted = match victim {
                Victim::Qemu => ("125", "QEMU was killed by signal 9"),
                Victim::Guest => ("125", "panic"),
                _ => ("137", ""),
            };
            assert!(ended == wanted.0 && log.contains(wanted.1), "{case}: {ended}: {log}");
        }
        Some(code) => {
            assert_eq!(code, 125, "{case}: {told}");
            assert!(told.lines().any(|line| line.starts_with("postroj: ")), "{case}: {told:?}");
        }
    }
}

/// What a test that is killed leaves behind: its end of the leash is closed then.
#[test]
fn machines_end_with_their_test() {
    image();
    let mut own = Own::new("left");
    let (mut starter, _) = start(&own, "left");
    assert!(starter.wait().unwrap().success());
    drop(own.leash.take());
    own.nothing_is_left(&[], "the test ended");
}

#[test]
fn whoever_is_killed_nothing_is_left_and_somebody_says_why() {
    image();
    let own = Own::new("killed");
    let times = std::env::var("POSTROJ_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(TIMES);
    // What is looked for once is there then.
    out(&mut own.postroj(&[&["run"], &VM[..], &[IMAGE, "true"]].concat()));
    let begun = Instant::now();
    out(&mut own.postroj(&[&["run"], &VM[..], &[IMAGE, "true"]].concat()));
    let whole = begun.elapsed();
    for number in 0..times {
        for victim in VICTIMS {
            round(&own, victim, number, whole);
        }
    }
    assert_eq!(
        out(&mut own.postroj(&[&["run"], &VM[..], &[IMAGE, "echo", "next"]].concat())),
        "next"
    );
}
