//! Mode `user`: processes of the user carry the machine's traffic, and nothing is set up on the host.

use anyhow::{Result, bail};
use spec::network::{Attachment, Link, Tap};

use super::{Attached, Known, Network, Place, Prepared, Target};

mod carrier;
mod pasta;
mod slirp4netns;

/// Mode `user`.
pub(super) struct User;

impl Network for User {
    fn carries(&self, link: &Link) -> bool {
        matches!(link, Link::User(_))
    }

    fn prepare(&self, attachment: &Attachment, place: &Place<'_>) -> Result<Box<dyn Prepared>> {
        let Link::User(user) = attachment.link else { bail!("this is no user-mode network") };
        if attachment.ip.is_some() || attachment.mac.is_some() {
            bail!(
                "a user-mode network gives no address to choose: leave --ip and --mac-address out"
            );
        }
        if !attachment.aliases.is_empty() {
            bail!("a user-mode network has no peers that could know an alias: leave it out");
        }
        let Some(tap) = user.tap else {
            // The machine's own servers will listen there: nothing is to be carried.
            let ports = crate::ports::free(&attachment.ports)?;
            return Ok(Box::new(Alone(Known { ports, ..Known::default() })));
        };
        let (carrier, known): (Box<dyn carrier::Program>, Known) = match tap {
            Tap::Pasta => {
                let pasta = pasta::Pasta::new(attachment, place)?;
                let known = pasta::known(&pasta);
                (Box::new(pasta), known)
            }
            Tap::Slirp4netns => {
                let slirp = slirp4netns::Slirp4netns::new(attachment, place)?;
                let known = slirp4netns::known(&slirp);
                (Box::new(slirp), known)
            }
        };
        Ok(Box::new(Waiting { carrier, known }))
    }
}

/// Sockets of the host's are all there is: whoever gives them (the engine) needs nothing made.
struct Alone(Known);

impl Prepared for Alone {
    fn known(&self) -> &Known {
        &self.0
    }

    fn attach(self: Box<Self>, _: &Target<'_>) -> Result<Box<dyn Attached>> {
        Ok(Box::new(Nothing))
    }
}

struct Nothing;

impl Attached for Nothing {
    fn processes(&self) -> Vec<i32> {
        Vec::new()
    }
}

struct Waiting {
    carrier: Box<dyn carrier::Program>,
    known: Known,
}

impl Prepared for Waiting {
    fn known(&self) -> &Known {
        &self.known
    }

    fn attach(self: Box<Self>, target: &Target<'_>) -> Result<Box<dyn Attached>> {
        Ok(Box::new(self.carrier.start(target)?))
    }
}
