//! `service`: one vocabulary for every init, each with a real web server.

mod fixture;

use fixture::{Machine, debian, fails, out, postroj, said};

/// What serves: the host's static busybox, copied into the machine.
const SERVER: &str = "/usr/local/bin/busybox httpd -f -p 127.0.0.1:8080 -h /srv";

/// Puts the server into the machine, and something to be served.
fn place_server(machine: &Machine) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"];
    let busybox = busybox.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap();
    out(&mut postroj(&["cp", busybox, &format!("{}:/usr/local/bin/busybox", machine.name)]));
    sh(machine, "mkdir -p /srv && echo served >/srv/page");
}

fn sh(machine: &Machine, script: &str) {
    out(&mut machine.exec(&[], &["sh", "-c", script]));
}

fn place(machine: &Machine, path: &str, text: &str) {
    let directory = path.rsplit_once('/').unwrap().0;
    let script = format!("mkdir -p {directory} && cat >{path} && chmod 755 {path}");
    let mut child = machine.exec(&["-i"], &["sh", "-c", &script]);
    let mut child = child.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, text.as_bytes()).unwrap();
    drop(input);
    assert!(child.wait().unwrap().success());
}

fn service(machine: &Machine, name: &str, action: &str) -> (i32, String) {
    let said = said(&mut postroj(&["service", &machine.name, name, action]));
    (said.code, said.out.trim().to_owned())
}

fn is_served(machine: &Machine) -> bool {
    let get = ["/usr/local/bin/busybox", "wget", "-qO-", "http://127.0.0.1:8080/page"];
    said(&mut machine.exec(&[], &get)).out == "served\n"
}

/// The same for all: `web` is known, and is started and stopped.
fn is_controlled(machine: &Machine) {
    let done = (0, String::new());
    if service(machine, "web", "status").0 == 0 {
        assert_eq!(service(machine, "web", "stop"), done);
    }
    assert_eq!(service(machine, "web", "status"), (3, "stopped".into()));
    assert!(!is_served(machine));
    for _ in 0..2 {
        assert_eq!(service(machine, "web", "start"), done);
        assert_eq!(service(machine, "web", "status"), (0, "running".into()));
        fixture::wait_until("it serves", || is_served(machine));
        assert_eq!(service(machine, "web", "restart"), done);
        assert_eq!(service(machine, "web", "status"), (0, "running".into()));
        fixture::wait_until("it serves again", || is_served(machine));
        assert_eq!(service(machine, "web", "stop"), done);
        assert_eq!(service(machine, "web", "status"), (3, "stopped".into()));
        assert!(!is_served(machine));
    }
    assert_eq!(service(machine, "nonesuch", "status"), (4, "unknown".into()));
    assert_eq!(service(machine, "nonesuch", "start").0, 5);
    // A name is a name, whatever is in it.
    assert_eq!(service(machine, "$(touch /srv/bad); x", "status"), (4, "unknown".into()));
    sh(machine, "test ! -e /srv/bad");
    assert_eq!(machine.stop(), 0);
}

const SCRIPT: &str = "#!/bin/sh
### BEGIN INIT INFO
# Provides:          web
# Required-Start:
# Required-Stop:
# Default-Start:     2 3 4 5
# Default-Stop:
# Short-Description: a web server
### END INIT INFO
daemon=/usr/local/bin/busybox pid=/run/web.pid
case $1 in
    start) start-stop-daemon --start --oknodo --background --make-pidfile --pidfile $pid \\
        --exec $daemon -- httpd -f -p 127.0.0.1:8080 -h /srv ;;
    stop) start-stop-daemon --stop --oknodo --retry 20 --remove-pidfile --pidfile $pid ;;
    restart) $0 stop && $0 start ;;
    status) start-stop-daemon --status --pidfile $pid ;;
esac
";

/// As buildroot's are, with what busybox has.
const BUSYBOX_SCRIPT: &str = "#!/bin/sh
pid=/run/web.pid
runs() { kill -0 $(cat $pid 2>/dev/null) 2>/dev/null; }
case $1 in
    start) runs || start-stop-daemon -S -b -m -p $pid -x /bin/busybox -- \
        httpd -f -p 127.0.0.1:8080 -h /srv ;;
    stop) kill $(cat $pid); while runs; do sleep 0.05; done ;;
    restart) $0 stop && $0 start ;;
    status) runs || exit 3 ;;
esac
";

fn run_script() -> String {
    format!("#!/bin/sh\nexec {SERVER}\n")
}

#[test]
fn of_systemd() {
    let machine = Machine::boot(&["--fast"], &debian("debian-12"));
    place_server(&machine);
    let unit = format!("[Service]\nExecStart={SERVER}\n");
    place(&machine, "/etc/systemd/system/web.service", &unit);
    sh(&machine, "systemctl daemon-reload");
    is_controlled(&machine);
}

#[test]
fn of_sysvinit() {
    let machine = Machine::boot(&[], &debian("debian-12+sysvinit"));
    place_server(&machine);
    place(&machine, "/etc/init.d/web", SCRIPT);
    is_controlled(&machine);
}

#[test]
fn of_openrc() {
    let machine = Machine::boot(&[], &debian("debian-12+openrc"));
    place_server(&machine);
    place(&machine, "/etc/init.d/web", SCRIPT);
    is_controlled(&machine);
}

#[test]
fn of_runit() {
    let machine = Machine::boot(&[], &debian("debian-12+runit"));
    place_server(&machine);
    place(&machine, "/etc/sv/web/run", &run_script());
    // It is there, but not chosen.
    assert_eq!(service(&machine, "web", "status"), (3, "stopped".into()));
    assert_eq!(service(&machine, "web", "start").0, 6);
    sh(&machine, "ln -s /etc/sv/web /etc/service/web");
    fixture::wait_until("it is supervised", || service(&machine, "web", "status").0 == 0);
    is_controlled(&machine);
}

#[test]
fn of_s6() {
    let machine = Machine::boot(&["--init", "s6"], &debian("debian-12+s6"));
    place_server(&machine);
    place(&machine, "/run/service/web/run", &run_script());
    sh(&machine, "s6-svscanctl -a /run/service");
    fixture::wait_until("it is supervised", || service(&machine, "web", "status").0 == 0);
    is_controlled(&machine);
}

#[test]
fn of_finit() {
    let machine = Machine::boot(&[], &debian("debian-12+finit"));
    place_server(&machine);
    let line = format!("service [12345] name:web {SERVER} -- a web server\n");
    place(&machine, "/etc/finit.d/web.conf", &line);
    sh(&machine, "/usr/lib/finit/initctl reload");
    fixture::wait_until("it is known", || service(&machine, "web", "status").0 == 0);
    is_controlled(&machine);
}

#[test]
fn of_busybox() {
    fixture::image();
    let inittab = fixture::home().join(format!("services-{}", std::process::id()));
    std::fs::write(&inittab, "::respawn:/bin/sh -c 'exec sleep 1000'\n").unwrap();
    let volume = format!("{}:/etc/inittab:ro", inittab.display());
    let machine = Machine::boot(&["-v", &volume], fixture::IMAGE);
    sh(&machine, "mkdir -p /usr/local/bin && ln -s /bin/busybox /usr/local/bin/busybox");
    sh(&machine, "echo served >/srv/page");
    place(&machine, "/etc/init.d/S50web", BUSYBOX_SCRIPT);
    is_controlled(&machine);
    std::fs::remove_file(inittab).unwrap();
}

#[test]
fn without_an_init_there_are_none() {
    fixture::image();
    let machine = Machine::start(&["run", "-d", fixture::IMAGE, "sleep", "1000"]);
    let words = ["service", &machine.name, "web", "start"];
    fails(&mut postroj(&words), 125, &["runs a command only"]);
}
