//! What a machine with a kernel of its own is made of, beside its plan.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result};
use engine::vm::initramfs::{NEEDED, NETWORK, SHARES};
use harness::kernel::{self, Kernel, Wish};
use plan::Launcher;
use spec::ids::IdMapping;
use spec::plan::{MountKind, OwnKernel, Plan};
use spec::request::{Request, UsernsRequest};

use super::Here;
use super::image::Ready;
use super::progress::Progress;

/// A request as it is carried out in a guest: there nobody but the machine's root is, and its kernel
/// has nothing to be kept from it.
pub(super) fn request(request: Request, launcher: &Launcher) -> (Request, Launcher) {
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
pub(super) struct Held {
    _kernel: Kernel,
    _initramfs: File,
}

/// The kernel, its first root, and the image as one file system.
pub(super) fn parts(here: &Here, ready: &Ready, plan: &Plan) -> Result<(OwnKernel, Held)> {
    let image = ready.image.as_ref().context(
        "only an image of the store can run as a virtual machine: pull it first (a directory as dir:PATH)",
    )?;
    let store = here.store()?;
    let mut waiting = || eprintln!("postroj: another process is packing the image; waiting for it");
    let root = harness::vm_root::of(&store, image, &mut waiting)?;
    let (options, tell) = (std::default::Default::default(), Progress::new());
    let wish =
        Wish { file: None, image: Some(image), store: &store, options: &options, tell: &tell };
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
    // By its own name it may be another program's at any moment.
    let opened = format!("/proc/{}/fd/{}", std::process::id(), initramfs.as_raw_fd());
    let (kernel_file, image) = (text(&kernel.file)?, text(&root)?);
    let parts = OwnKernel { kernel: kernel_file, initramfs: opened, image, ids };
    Ok((parts, Held { _kernel: kernel, _initramfs: initramfs }))
}
