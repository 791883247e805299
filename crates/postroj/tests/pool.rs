//! Pools of booted machines: taken by one, by several, by nobody; with holders that are killed.

mod fixture;

use fixture::{IMAGE, Machine, Own, debian, fails, out, postroj, processes_with, said, wait_until};

/// A pool with a run directory of its own, removed at the end of its test.
struct Pool {
    own: Own,
    name: String,
    image: String,
}

impl Pool {
    fn new(name: &str, options: &[&str], image: &str) -> Self {
        let pool = Self { own: Own::new(name), name: name.into(), image: image.into() };
        let start = ["pool", "create", "--network", "none", "--name", name];
        assert_eq!(out(&mut pool.postroj(&[&start, options, &[image]].concat())), name);
        pool
    }

    /// With the common store, but machines of its own.
    fn postroj(&self, args: &[&str]) -> std::process::Command {
        let mut command = postroj(args);
        command.env("POSTROJ_RUNROOT", self.own.path("run"));
        command
    }

    fn take(&self, options: &[&str]) -> String {
        out(&mut self.postroj(&[&["boot", "-d", "--from-pool"], options, &[&self.image]].concat()))
    }

    fn exec(&self, machine: &str, command: &[&str]) -> String {
        out(&mut self.postroj(&[&["exec", machine], command].concat()))
    }

    fn list(&self) -> serde_json::Value {
        serde_json::from_str(&out(&mut self.postroj(&["pool", "ls", "--json"]))).unwrap()
    }

    fn is_full(&self) -> bool {
        let pool = &self.list()[0];
        pool["Ready"] == pool["Size"]
    }

    fn machines(&self) -> Vec<String> {
        let text = out(&mut self.postroj(&["ps", "--all", "--quiet"]));
        text.lines().map(str::to_owned).collect()
    }

    /// Nothing of it is left, neither files nor processes.
    fn is_gone(&self) {
        assert_eq!(self.list(), serde_json::json!([]));
        assert!(self.machines().is_empty());
        for directory in ["run/machines", "run/pools/machines", "run/logs"] {
            wait_until("its files are gone", || {
                let left = std::fs::read_dir(self.own.path(directory));
                left.map_or(0, Iterator::count) == 0
            });
        }
        wait_until("its processes are gone", || {
            processes_with(&format!("--name\0{}\0", self.name)).is_empty()
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let _ = self.postroj(&["pool", "rm", &self.name]).output();
        let all = self.postroj(&["ps", "-aq"]).output().unwrap().stdout;
        for machine in String::from_utf8_lossy(&all).lines() {
            let _ = self.postroj(&["rm", "-f", machine]).output();
        }
    }
}

#[test]
fn machines_of_a_pool_are_whole_and_distinct() {
    let pool = Pool::new("pool-whole", &["--size", "2"], &debian("debian-12"));
    assert_eq!(out(&mut pool.postroj(&["ps", "--quiet"])), "", "what waits is nobody's yet");
    assert_eq!(pool.machines().len(), 2);
    let waits = &out(&mut pool.postroj(&["ps", "-a"]));
    assert!(waits.contains("In the pool pool-whole"), "{waits}");
    let (plain, named) =
        (pool.take(&[]), pool.take(&["--name", "mine", "--hostname", "bee", "--rm"]));
    let identity =
        "cat /etc/machine-id /proc/sys/kernel/hostname; echo $HOSTNAME; cat /etc/hostname";
    let ids: Vec<String> = [&plain[..12], "mine"]
        .map(|machine| {
            assert_eq!(pool.exec(machine, &["systemctl", "is-system-running"]), "running");
            assert_eq!(pool.exec(machine, &["systemctl", "--failed", "-q"]), "");
            let journal =
                pool.exec(machine, &["journalctl", "-q", "-n1", "-o", "cat", "-u", "dbus"]);
            assert!(journal.contains("Started"), "{journal}");
            pool.exec(machine, &["sh", "-c", identity])
        })
        .into();
    assert_eq!(ids[0], [&plain[..32], &plain[..12], &plain[..12], &plain[..12]].join("\n"));
    assert_eq!(ids[1], [&named[..32], "bee", "bee", "bee"].join("\n"));
    assert!(pool.exec("mine", &["cat", "/etc/hosts"]).contains("localhost bee"));
    wait_until("it is full again", || pool.is_full());
    // Neither is the pool's any more.
    out(&mut pool.postroj(&["pool", "rm", "pool-whole"]));
    assert_eq!(out(&mut pool.postroj(&["ps", "--quiet"])).lines().count(), 2);
    out(&mut pool.postroj(&["restart", "mine"]));
    assert_eq!(out(&mut pool.postroj(&["ps", "--quiet"])).lines().count(), 2);
    assert_eq!(pool.exec("mine", &["sh", "-c", identity]), ids[1]);
    out(&mut pool.postroj(&["stop", "mine", &plain[..12]]));
    assert_eq!(pool.machines(), [&plain[..12]], "one with --rm is forgotten");
    out(&mut pool.postroj(&["rm", &plain[..12]]));
    pool.is_gone();
}

#[test]
fn a_pool_whose_holder_is_killed_is_gone_with_the_next_command() {
    let pool = Pool::new("pool-killed", &["--size", "2"], &debian("debian-12"));
    let taken = pool.take(&[]);
    wait_until("it is full again", || pool.is_full());
    let holder = pool.list()[0]["Pid"].as_i64().unwrap();
    let holder = rustix::process::Pid::from_raw(holder as i32).unwrap();
    rustix::process::kill_process(holder, rustix::process::Signal::KILL).unwrap();
    wait_until("the pool is gone", || pool.list() == serde_json::json!([]));
    assert_eq!(pool.machines(), [&taken[..12]], "who was taken stays");
    assert_eq!(pool.exec(&taken, &["systemctl", "is-system-running"]), "running");
    let create = ["boot", "-d", "--from-pool", "pool-killed"];
    fails(&mut pool.postroj(&create), 125, &["there is no pool of pool-killed", "pool create"]);
    out(&mut pool.postroj(&["rm", "-f", &taken]));
    pool.is_gone();
}

#[test]
fn more_takers_than_machines_get_one_each() {
    let pool = Pool::new("pool-many", &["--fast"], &debian("debian-12"));
    let take = || {
        let mut command = pool.postroj(&["boot", "-d", "--from-pool", "--rm", "pool-many"]);
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let takers = [take(), take(), take(), take()];
    let mut ids: Vec<String> = takers
        .into_iter()
        .map(|taker| {
            let output = taker.wait_with_output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        })
        .collect();
    for id in &ids {
        assert_eq!(pool.exec(id, &["systemctl", "is-system-running"]), "running");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
    ids.iter().for_each(|id| drop(out(&mut pool.postroj(&["stop", id]))));
    out(&mut pool.postroj(&["pool", "rm", "pool-many"]));
    pool.is_gone();
}

#[test]
fn a_pool_of_an_image_that_is_removed_hands_out_what_it_has() {
    fixture::image();
    let tag = format!("test:removed-{}", std::process::id());
    out(&mut postroj(&["tag", IMAGE, &tag]));
    let pool = Pool::new("pool-removed", &["--init", "/bin/init", "--pull", "never"], &tag);
    out(&mut postroj(&["rmi", &tag]));
    let taken = pool.take(&[]);
    assert_eq!(pool.exec(&taken, &["echo", "here"]), "here");
    wait_until("it says what is wrong", || {
        pool.list()[0]["Trouble"].as_str().is_some_and(|why| why.contains("is not here"))
    });
    let said = said(&mut pool.postroj(&["boot", "-d", "--from-pool", "pool-removed"]));
    assert_eq!(said.code, 125, "{said:?}");
    assert!(said.err.contains("is empty, and cannot boot test:removed-"), "{said:?}");
    // Back again, it fills by itself.
    out(&mut postroj(&["tag", IMAGE, &tag]));
    wait_until("it is full again", || pool.is_full());
    out(&mut postroj(&["rmi", &tag]));
    out(&mut pool.postroj(&["rm", "-f", &taken]));
    out(&mut pool.postroj(&["pool", "rm", "pool-removed"]));
    pool.is_gone();
}

#[test]
fn what_a_pool_cannot_do_is_said() {
    fixture::image();
    let pool = Pool::new("pool-refusals", &["--init", "/bin/init"], IMAGE);
    let again = ["pool", "create", "--name", "pool-refusals", "--init", "/bin/init", IMAGE];
    fails(&mut pool.postroj(&again), 125, &["there is a pool pool-refusals already"]);
    let ports = ["pool", "create", "-p", "80", IMAGE];
    fails(&mut pool.postroj(&ports), 125, &["no two machines may have the same --publish"]);
    let broken = ["pool", "create", "--name", "broken", "--init", "/no/init", IMAGE];
    fails(&mut pool.postroj(&broken), 125, &["/no/init"]);
    fails(&mut pool.postroj(&["pool", "rm", "x"]), 125, &["there is no pool x"]);
    let limits = said(&mut pool.postroj(&["boot", "-d", "--from-pool", "-m", "1g", IMAGE]));
    assert!(limits.err.contains("cannot be used with"), "{limits:?}");
    let network = ["boot", "-d", "--from-pool", "--network", "host", IMAGE];
    fails(&mut pool.postroj(&network), 125, &["has its network already"]);
    let name = ["boot", "-d", "--from-pool", "--name", "a/b", IMAGE];
    fails(&mut pool.postroj(&name), 125, &["invalid machine name"]);
    assert!(pool.is_full());
    assert_eq!(pool.list().as_array().unwrap().len(), 1);
    // The other word for it.
    let other = ["boot", "--pool", "1", "--name", "other", "--init", "/bin/init", IMAGE];
    assert_eq!(out(&mut pool.postroj(&other)), "other");
    let both = ["boot", "-d", "--from-pool", IMAGE];
    fails(&mut pool.postroj(&both), 125, &["there are several pools", "other, pool-refusals"]);
    out(&mut pool.postroj(&["pool", "rm", "other", "pool-refusals"]));
    pool.is_gone();
}

#[test]
fn services_outlive_a_pause_that_is_longer_than_their_watchdog() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    let unit = "[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=2\nRestart=no\n\
        ExecStart=/bin/sh -c 'systemd-notify --ready; while sleep 0.2; do test -e /run/quiet || systemd-notify WATCHDOG=1; done'";
    let script = format!(
        "cat >/run/systemd/system/watched.service <<'END'\n{unit}\nEND\n\
         systemctl daemon-reload && systemctl start watched"
    );
    out(&mut machine.exec(&[], &["sh", "-c", &script]));
    out(&mut postroj(&["pause", &machine.name]));
    std::thread::sleep(std::time::Duration::from_secs(3));
    out(&mut postroj(&["unpause", &machine.name]));
    let watches =
        ["busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"];
    let watches =
        [&watches[..], &["org.freedesktop.systemd1.Manager", "ServiceWatchdogs"]].concat();
    assert_eq!(out(&mut machine.exec(&[], &watches)), "b true");
    assert_eq!(out(&mut machine.exec(&[], &["systemctl", "is-active", "watched"])), "active");
    // And they are watched again, each from its next sign of life on.
    let signs = ["systemctl", "show", "-P", "WatchdogTimestampMonotonic", "watched"];
    let last = out(&mut machine.exec(&[], &signs));
    wait_until("it gives a sign of life", || out(&mut machine.exec(&[], &signs)) != last);
    out(&mut machine.exec(&[], &["touch", "/run/quiet"]));
    wait_until("it is killed", || {
        said(&mut machine.exec(&[], &["systemctl", "is-failed", "-q", "watched"])).code == 0
    });
    assert_eq!(machine.stop(), 0);
}
