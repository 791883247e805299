//! What a machine with a kernel of its own is made of, beside its plan.

use anyhow::{Context, Result};
use plan::Launcher;
use spec::plan::OwnKernel;
use spec::request::{Request, UsernsRequest};

use super::Here;
use super::image::Ready;

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

/// The kernel, its first root, and the image as one file system.
pub(super) fn parts(here: &Here, ready: &Ready) -> Result<OwnKernel> {
    let image = ready.image.as_ref().context(
        "only an image of the store can be a virtual machine: `postroj pull` it first, by dir:PATH where it is a directory",
    )?;
    let mut waiting = || eprintln!("postroj: another process is packing the image; waiting for it");
    let root = harness::vm_root::of(&here.store()?, image, &mut waiting)?;
    let text = |path: &std::path::Path| {
        let text = path.to_str().map(str::to_owned);
        text.with_context(|| format!("{} is not UTF-8", path.display()))
    };
    let try_ = std::env::var("POSTROJ_TRY").context("set POSTROJ_TRY")?;
    Ok(OwnKernel {
        kernel: format!("{try_}/vmlinuz"),
        initramfs: format!("{try_}/initramfs"),
        image: text(&root)?,
    })
}
