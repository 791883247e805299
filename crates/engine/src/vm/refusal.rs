//! What a virtual machine cannot have. Pure.

use anyhow::{Result, bail};
use spec::network::Mode;
use spec::request::{MountRequest, Request, SeccompRequest, UsernsRequest};

/// # Errors
/// Names the option, why it means nothing here, and what to do instead.
pub(super) fn check(request: &Request) -> Result<()> {
    let own = "a virtual machine has a kernel of its own";
    let asked = [
        ("--privileged", request.privileged, "root has every right in it already"),
        ("--userns", request.userns != UsernsRequest::Auto, "its ids are not the host's"),
        (
            "--security-opt seccomp",
            request.seccomp != SeccompRequest::Default,
            "no system call is filtered in it",
        ),
        ("--security-opt systempaths", request.unmask, "nothing is masked in it"),
        ("--nested", request.nested.is_some(), "containers can be made in it as anywhere"),
    ];
    if let Some((option, _, why)) = asked.into_iter().find(|(_, asked, _)| *asked) {
        bail!("{option} means nothing with --isolation vm: {own}, and {why} (leave it out)");
    }
    match &request.network.mode {
        Mode::None | Mode::User(..) | Mode::Bridge(_) => {}
        Mode::Host | Mode::Container(_) | Mode::Namespace(_) => {
            bail!(
                "a virtual machine cannot share a network: {own} (--network user, --network none)"
            )
        }
    }
    let is_image = |mount: &&MountRequest| matches!(mount, MountRequest::Image { .. });
    if let Some(MountRequest::Image { image, .. }) = request.mounts.iter().find(is_image) {
        bail!("the image {image} cannot be mounted in a virtual machine yet: {own}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::request::NetworkRequest;

    fn request() -> Request {
        Request { network: NetworkRequest::of(Mode::None), ..Request::default() }
    }

    #[test]
    fn what_only_a_container_can_have_is_named() {
        check(&request()).unwrap();
        let refused = |change: &dyn Fn(&mut Request), part: &str| {
            let mut request = request();
            change(&mut request);
            let error = check(&request).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(&|r| r.privileged = true, "--privileged means nothing");
        refused(&|r| r.userns = UsernsRequest::KeepId, "--userns means nothing");
        refused(&|r| r.unmask = true, "systempaths");
        refused(&|r| r.network.mode = Mode::Host, "cannot share a network");
        refused(&|r| r.network.mode = Mode::Container("x".into()), "cannot share a network");
    }
}
