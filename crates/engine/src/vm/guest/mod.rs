//! Process 1 of a virtual machine: this program, out of its first root. It mounts what there is, and
//! then does what comes over its port until the machine is switched off.
//!
//! What runs in the machine is a container of this very engine, without anything that keeps it from
//! the guest's kernel: so a plan means the same there as anywhere else.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, inotify};
use spec::network::Interface;
use sys::mount::{self, Attributes};

use crate::Errand;
use crate::state::RunDirectory;

mod agent;
mod session;

/// The port's name, by which it is found among others.
pub(super) const PORT: &str = "postroj";

/// Where the image's files are.
pub(super) const IMAGE: &str = "/image";

/// What a guest's process 1 can do that this engine knows nothing of.
pub struct Abilities {
    /// Things with names.
    pub errands: &'static [&'static Errand],
    /// Sets a network card up.
    pub set_up: fn(&Interface) -> Result<()>,
}

/// Whether this process is process 1 of a machine that was made by this engine.
#[must_use]
pub fn is_here() -> bool {
    rustix::process::getpid().as_raw_nonzero().get() == 1
        && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// Does a guest's work; never returns. What ends it ends the machine.
pub fn run(abilities: &Abilities) -> ! {
    let error = match serve(abilities) {
        Ok(()) => anyhow::anyhow!("nobody is at the port any more"),
        Err(error) => error,
    };
    // On the console, of which the host keeps the end.
    let text = format!("\r\npostroj: {error:#}\r\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    sys::process::exit_now(1)
}

fn serve(abilities: &Abilities) -> Result<()> {
    first_root()?;
    let port = port()?;
    image()?;
    second_root()?;
    let run = RunDirectory::open(Path::new("/run/postroj"))?;
    agent::serve(port, &run, abilities).context("the port failed")
}

/// What the kernel itself offers, and the modules that everything else needs.
fn first_root() -> Result<()> {
    let none = Attributes::default();
    for (path, fstype, place) in
        [("/proc", c"proc", c"/proc"), ("/sys", c"sysfs", c"/sys"), ("/dev", c"devtmpfs", c"/dev")]
    {
        let _ = std::fs::create_dir(path);
        match mount::filesystem(fstype, place, none, c"") {
            // The kernel may have mounted its devices itself.
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                return Err(error).with_context(|| format!("cannot mount {path}"));
            }
            _ => {}
        }
    }
    let mut modules: Vec<_> =
        std::fs::read_dir("/modules").into_iter().flatten().flatten().map(|e| e.path()).collect();
    modules.sort();
    for path in modules {
        let what = || format!("cannot load the module {}", path.display());
        let file = File::open(&path).with_context(what)?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(what),
        }
    }
    Ok(())
}

/// Opens the port, once the kernel has found it.
fn port() -> Result<OwnedFd> {
    let flags = inotify::CreateFlags::CLOEXEC;
    let watch = inotify::init(flags).context("cannot watch for devices")?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)
        .context("cannot watch for devices")?;
    loop {
        for entry in std::fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            let path = Path::new("/dev").join(entry.file_name());
            if name.trim_end() == PORT && path.exists() {
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
                return rustix::fs::open(&path, flags, Mode::empty())
                    .with_context(|| format!("cannot open {}", path.display()));
            }
        }
        wait(&watch, "the port")?;
    }
}

fn wait(watch: &OwnedFd, what: &str) -> Result<()> {
    /// A kernel that has not found a device by then never does.
    const PATIENCE: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
    let mut polled = [PollFd::new(watch, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&PATIENCE)) {
        Ok(0) => bail!("there is no device for {what}"),
        _ => {
            let mut events = [0; 4096];
            let _ = rustix::io::read(watch, &mut events);
            Ok(())
        }
    }
}

/// Mounts the image.
fn image() -> Result<()> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)?;
    while !Path::new("/dev/vda").exists() {
        wait(&watch, "the image")?;
    }
    std::fs::create_dir(IMAGE).context("cannot make a place for the image")?;
    let flags = Attributes { read_only: true, ..Attributes::default() }.flags();
    mount::plain(c"/dev/vda", c"/image", c"erofs", flags, c"")
        .context("cannot mount the image's file system")
}

/// The first root is no mount that could be left (pivot_root(2), "rootfs"): one in memory takes its
/// place, with all that is mounted.
fn second_root() -> Result<()> {
    let what = "cannot make the second root";
    std::fs::create_dir("/root2").context(what)?;
    mount::filesystem(c"tmpfs", c"/root2", Attributes::default(), c"mode=0755").context(what)?;
    for name in ["proc", "sys", "dev", "image", "run", "tmp", "etc"] {
        std::fs::create_dir(Path::new("/root2").join(name)).context(what)?;
    }
    for (from, to) in [
        (c"/proc", c"/root2/proc"),
        (c"/sys", c"/root2/sys"),
        (c"/dev", c"/root2/dev"),
        (c"/image", c"/root2/image"),
    ] {
        mount::relocate(from, to).context(what)?;
    }
    rustix::process::chdir("/root2").context(what)?;
    mount::relocate(c".", c"/").context(what)?;
    rustix::process::chroot(".").context(what)?;
    rustix::process::chdir("/").context(what)?;
    // The groups that a system manages, and that limits are set in.
    mount::filesystem(c"cgroup2", c"/sys/fs/cgroup", Attributes::default(), c"")
        .context("cannot mount the control groups")?;
    sys::loopback::up().context("cannot set the loopback device up")
}
