//! An image as the file that a virtual machine has its root from.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use spec::image::Image;
use store::Store;
use sys::process::{self, Namespaces, Status};

/// The image's layers as one EROFS file in the store, made now where there is none yet.
///
/// It stays as long as the image does: hold a [lease](Store::lease) before, and as long as it is used. The owners in
/// it are the image's own, whoever calls this: for an ordinary user a process makes it that enters the
/// namespace in which layers are unpacked, and this one stays where it is. It must have no other thread then.
/// `waiting` is called once where another process is making the same.
///
/// # Errors
/// Where a layer cannot be read, something in it has no place in EROFS, the store cannot be written, or
/// an ordinary user lacks subordinate ids.
pub fn of(store: &Store, image: &Image, waiting: &mut dyn FnMut()) -> Result<PathBuf> {
    if let Some(there) = store.root_image(image) {
        return Ok(there);
    }
    if rustix::process::geteuid().is_root() {
        return store.make_root_image(image, waiting);
    }
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let child = process::spawn(Namespaces::NONE, None, || {
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            inside(store, image, waiting)
        }));
        let code = match made {
            Ok(Ok(())) => 0,
            Ok(Err(error)) => {
                // Where nobody listens any more, nobody wants to know.
                let _ = File::from(writer).write_all(format!("{error:#}").as_bytes());
                1
            }
            Err(_) => 1,
        };
        process::exit_now(code);
    })
    .context("cannot make a process for the image's root")?;
    let mut message = String::new();
    // The child's copy of the other end is the only one that is left; it was moved there.
    let _ = File::from(reader).read_to_string(&mut message);
    match child.wait().context("cannot wait for the image's root")? {
        Status::Exited(0) => store.root_image(image).context("the image was removed meanwhile"),
        _ if message.is_empty() => bail!("the process that made the image's root died"),
        _ => bail!("{message}"),
    }
}

fn inside(store: &Store, image: &Image, waiting: &mut dyn FnMut()) -> Result<()> {
    let path = store.path().to_owned();
    crate::host::enter_user_namespace()?;
    // A change of ids takes it away (prctl(2), PR_SET_PDEATHSIG).
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Store::open(&path)?.make_root_image(image, waiting).map(drop)
}
