//! `provision`: packages for an image, in a process of its own. It is what `run --install` and `boot` start.

use anyhow::{Context, Result};
use harness::Provision;
use harness::probe::cell::Program;
use spec::event::{Event, Tell};

use super::Here;
use super::progress::Progress;

/// Install packages in an image
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Packages
    #[arg(long, value_name = "PACKAGE", value_delimiter = ',', required = true)]
    install: Vec<String>,
    /// Id of an image whose package manager does it
    #[arg(long, value_name = "ID")]
    install_with: Option<String>,
    /// Id of the image
    image: String,
    /// What the user calls it
    name: String,
}

pub(super) fn run(args: &Args, here: &Here) -> Result<u8> {
    let (store, run) = (here.store()?, here.run_directory()?);
    let base = store.find(&args.image)?.with_context(|| format!("{} is gone", args.name))?;
    let _lease = store.lease(&base)?;
    let find = |id: &String| store.find(id)?.with_context(|| format!("the image {id} is gone"));
    let helper = args.install_with.as_ref().map(find).transpose()?;
    let _helper_lease = helper.as_ref().map(|helper| store.lease(helper)).transpose()?;
    let provision = Provision::new(base, helper, &args.install)?;
    let progress = Progress::new();
    let mut waiting =
        || progress.tell(Event::Phase { name: "waiting for another installation".into() });
    let id = provision.id()?;
    let _lock = store.lock(&format!("provision {id}"), &mut waiting)?;
    if store.find(&id)?.is_some() {
        return Ok(0);
    }
    let program = Program { options: here.options() };
    let written = provision
        .install(&program, &[], &store, &run, &progress)
        .with_context(|| format!("cannot provision {}", args.name))?;
    let (store, _) = here.store_for_change()?;
    provision.commit(written, &store, &args.name)?;
    Ok(0)
}
