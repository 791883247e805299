//! What is left to do inside the image, by its own dpkg.

use spec::recipe::{Recipe, Step};

use super::unpacking::Unpacked;

/// Runs the preinst scripts, which dpkg would have run before it unpacked: some of them make
/// files that others need, such as base-passwd's `/etc/passwd`. As with dpkg, a package's
/// control files are in `tmp.ci` meanwhile; debconf looks for them there.
const PREPARE: &str = r#"
cd /var/lib/dpkg
while [ $# -gt 0 ]; do
    export DPKG_MAINTSCRIPT_PACKAGE="${1%%:*}" DPKG_MAINTSCRIPT_ARCH="$2"
    ln -sfn "tmp.preinst/$1" tmp.ci
    (cd / && exec /var/lib/dpkg/tmp.ci/preinst install) || {
        status=$?
        echo "the preinst script of $1 failed with status $status" >&2
        exit $status
    }
    shift 2
done
rm -rf tmp.ci tmp.preinst
"#;

/// Removes what only tells of the making (mmdebstrap removes the same).
const TIDY: &str = r#"
rm -f /usr/sbin/policy-rc.d /usr/local/sbin/ischroot
rm -f /var/log/dpkg.log /var/log/alternatives.log /var/log/bootstrap.log
rm -f /var/log/apt/history.log /var/log/apt/term.log /var/log/apt/eipp.log.xz
rm -f /var/cache/ldconfig/aux-cache /var/lib/dbus/machine-id
[ ! -e /etc/machine-id ] || { rm -f /etc/machine-id; : >/etc/machine-id; }
for path in /run/* /run/.[!.]* /tmp/* /tmp/.[!.]*; do
    [ "$path" = /run/lock ] || rm -rf "$path"
done
"#;

/// Files that exist only while the recipe runs: path, content.
///
/// `policy-rc.d` keeps invoke-rc.d and deb-systemd-invoke from starting services (101, "action
/// forbidden by policy": the init-system-helpers' README.policy-rc.d). `ischroot` tells
/// scripts that they set up a system that does not run; libc6's would else wait a second
/// for init to restart.
pub(crate) const SCAFFOLD: [(&str, &str); 2] = [
    ("usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n"),
    ("usr/local/sbin/ischroot", "#!/bin/sh\nexit 0\n"),
];

/// The steps that turn unpacked packages, which come in the order of their dependencies,
/// into a system.
pub(crate) fn recipe(packages: &[Unpacked]) -> Recipe {
    let mut prepare = shell(PREPARE);
    for package in packages.iter().filter(|p| p.control.files.contains_key("preinst")) {
        prepare.extend([package.control.info_name(), package.control.architecture.clone()]);
    }
    // Named one by one: left to itself, dpkg goes by its hash table where dependencies leave a choice.
    let mut configure = ["dpkg", "--force-unsafe-io", "--configure"].map(String::from).to_vec();
    configure.extend(packages.iter().map(|package| package.control.info_name()));
    let maintainer_script = [
        ("DPKG_MAINTSCRIPT_NAME", "preinst"),
        ("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1"),
        ("DPKG_ADMINDIR", "/var/lib/dpkg"),
        ("DPKG_ROOT", ""),
    ];
    Recipe {
        steps: vec![
            step("preparing packages", prepare, &maintainer_script),
            step("configuring packages", configure, &[]),
            step("tidying up", shell(TIDY), &[]),
        ],
    }
}

fn shell(script: &str) -> Vec<String> {
    ["sh", "-ec", script, "sh"].map(String::from).to_vec()
}

fn step(title: &str, args: Vec<String>, more: &[(&str, &str)]) -> Step {
    let common = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LC_ALL", "C.UTF-8"),
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("DEBCONF_NONINTERACTIVE_SEEN", "true"),
    ];
    let env = common.iter().chain(more).map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    Step { title: title.into(), args, env }
}
