//! Nothing is left of systems that were booted, however they ended.

mod fixture;

use std::path::PathBuf;
use std::process::Command;

use fixture::{debian, home, out, postroj, said, wait_until};
use rustix::process::{Pid, Signal};

/// Boots and stops in a row.
const ROUNDS: u32 = 100;

/// Boots of which somebody is killed.
const KILLS: u32 = 20;

/// A run directory of its own, so that nobody else's machines are taken for ours.
struct Own(PathBuf);

impl Own {
    fn new(name: &str) -> Self {
        let run = home().join(format!("run-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&run).unwrap();
        Self(run)
    }

    fn postroj(&self, args: &[&str]) -> Command {
        // On the command line, by which its processes are found.
        let mut command = postroj(&[&["--runroot", self.0.to_str().unwrap()], args].concat());
        command.stdout(std::process::Stdio::piped());
        command
    }

    fn boot(&self, name: &str, image: &str) -> i32 {
        // A monitor must not hold the end of our pipe.
        let said = self.0.join("said");
        let file = std::fs::File::create(said).unwrap();
        let mut boot = self.postroj(&["boot", "-d", "--rm", "--fast", "--name", name, image]);
        let status = boot.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        status.code().unwrap_or(-1)
    }

    /// Ids of the machine's first process and of its monitor.
    fn processes(&self, name: &str) -> Option<(i32, i32)> {
        let text = std::fs::read_to_string(self.0.join("machines").join(name)).ok()?;
        let id = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split(' ').next()?.parse().ok()
        };
        Some((id("pid ")?, id("monitor ")?))
    }

    fn nothing_is_left(&self, ids: &[String], what: &str) {
        out(&mut self.postroj(&["ps"]));
        wait_until(&format!("no process is left after {what}"), || {
            fixture::processes_with(self.0.to_str().unwrap()).is_empty()
        });
        let records = std::fs::read_dir(self.0.join("machines")).unwrap();
        assert_eq!(records.count(), 0, "records after {what}");
        for id in ids {
            for hierarchy in hierarchies() {
                assert!(!hierarchy.join("postroj").join(id).exists(), "a group after {what}");
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.0.to_str().unwrap()), "a mount after {what}: {mounts}");
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn hierarchies() -> Vec<PathBuf> {
    let layout = sys::cgroups::Layout::read().unwrap();
    layout.legacy.iter().chain(&layout.unified).map(|h| h.mount.clone()).collect()
}

#[test]
fn a_hundred_boots_in_a_row() {
    let image = debian("debian-12");
    let own = Own::new("row");
    for round in 0..ROUNDS {
        assert_eq!(own.boot("row", &image), 0, "round {round}");
        let stop = said(&mut own.postroj(&["stop", "row"]));
        assert_eq!(stop.code, 0, "round {round}: {stop:?}");
    }
    own.nothing_is_left(&[], "a hundred boots");
    let logs = std::fs::read_dir(own.0.join("logs")).map_or(0, |logs| logs.count());
    assert_eq!(logs, 0, "logs of machines that forget themselves");
}

#[test]
fn whoever_is_killed() {
    let image = debian("debian-12");
    let own = Own::new("kills");
    for round in 0..KILLS {
        let name = format!("kill-{round}");
        let mut starter = own.postroj(&["boot", "-d", "--rm", "--fast", "--name", &name, &image]);
        let null = || std::fs::File::options().write(true).open("/dev/null").unwrap();
        let mut starter = starter.stdout(null()).stderr(null()).spawn().unwrap();
        // From before its init runs until after it is up.
        std::thread::sleep(std::time::Duration::from_millis(u64::from(round) * 12));
        let victim = match (round % 3, own.processes(&name)) {
            (0, _) | (_, None) => None,
            (1, Some((_, monitor))) => Some(monitor),
            (_, Some((init, _))) => Some(init),
        };
        match victim {
            None => drop(starter.kill()),
            // It may have ended meanwhile.
            Some(id) => {
                let _ = rustix::process::kill_process(Pid::from_raw(id).unwrap(), Signal::KILL);
            }
        }
        let _ = starter.wait();
        // A machine that has not been reported goes with its starter; another stays.
        out(&mut own.postroj(&["rm", "-f", &name]));
    }
    own.nothing_is_left(&[], "kills");
    assert_eq!(own.boot("after", &image), 0);
    out(&mut own.postroj(&["stop", "after"]));
    own.nothing_is_left(&[], "the next boot");
}
