//! What a machine with a kernel of its own is made of, beside its plan.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use engine::vm::initramfs::{NEEDED, NETWORK, SHARES};
use harness::kernel::{self, Kernel, Wish};
use plan::Launcher;
use spec::ids::IdMapping;
use spec::image::Image;
use spec::plan::{MountKind, OwnKernel, Plan};
use spec::platform::Platform;
use spec::request::{Request, UsernsRequest};
use store::Store;

use super::Here;
use super::image::Ready;
use super::progress::Progress;

/// A request as it is carried out in a guest: there nobody but the machine's root is, and its kernel
/// has nothing to be kept from it.
pub(in crate::face) fn request(request: Request, launcher: &Launcher) -> (Request, Launcher) {
    let launcher = Launcher {
        uid: 0,
        gid: 0,
        initial_userns: true,
        subuids: Vec::new(),
        subgids: Vec::new(),
        private_base: 0,
        capabilities: sys::caps::NAMES.map(str::to_owned).to_vec(),
        ..launcher.clone()
    };
    let request = Request { privileged: true, userns: UsernsRequest::Host, ..request };
    (request, launcher)
}

/// What must stay as long as the machine: the files that its plan names.
pub(in crate::face) struct Held {
    kernel: Kernel,
    initramfs: File,
}

impl Held {
    /// Where this process has the first root: by its own name it may be another program's at any moment.
    pub(in crate::face) fn initramfs(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.initramfs.as_raw_fd())
    }
}

/// The kernel, its first root, and the image as one file system.
pub(super) fn parts(here: &Here, ready: &Ready, plan: &Plan) -> Result<(OwnKernel, Held)> {
    let image = ready.image.as_ref().context(
        "only an image of the store can run as a virtual machine: pull it first (a directory as dir:PATH)",
    )?;
    check_processor(ready.facts.architecture.as_deref())?;
    let store = here.store()?;
    let mut waiting = || eprintln!("postroj: another process is packing the image; waiting for it");
    let root = harness::vm_root::of(&store, image, &mut waiting)?;
    of_root(&store, Some(image), &root, plan)
}

/// A guest's first process is this very program, so that it has this program's processor.
fn check_processor(architecture: Option<&str>) -> Result<()> {
    let host = Platform::host().architecture;
    match architecture.filter(|architecture| *architecture != host) {
        Some(other) => bail!(
            "the image is for {other}, and a virtual machine of that needs postroj's own program for {other} as its \
             first process, which this one for {host} does not have with it (leave --isolation vm out: as a \
             container it is emulated; or run it on a host of that kind)"
        ),
        None => Ok(()),
    }
}

/// The kernel and its first root, with this file system.
pub(in crate::face) fn of_root(
    store: &Store,
    image: Option<&Image>,
    root: &Path,
    plan: &Plan,
) -> Result<(OwnKernel, Held)> {
    let (options, tell) = (std::default::Default::default(), Progress::new());
    let wish = Wish { file: None, image, store, options: &options, tell: &tell };
    let kernel = kernel::find(&wish)?;
    drop(tell);
    let directory = store.path().join("kernels");
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let shares = plan.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Bind { .. }));
    let (shares, ids) = match shares {
        true => (SHARES, harness::host::ids_of_files()?),
        false => (&[][..], IdMapping::Inherit),
    };
    let initramfs = kernel.initramfs(&directory, &[NEEDED, NETWORK, shares].concat())?;
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.with_context(|| format!("{} is not UTF-8", path.display()))
    };
    let held = Held { kernel, initramfs };
    let parts = OwnKernel {
        kernel: text(&held.kernel.file)?,
        initramfs: held.initramfs(),
        image: text(root)?,
        ids,
    };
    Ok((parts, held))
}
