//! What kinds of networks this host and user can have: looked at without making any.

use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Access, AtFlags, CWD};
use spec::network::{Accel, Tap, User};

/// Where packets of a device are read and written (tun.txt in the kernel's documentation).
const TUN: &str = "/dev/net/tun";

/// What mode `user` can be carried by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// pasta(1) is installed.
    pub pasta: bool,
    /// slirp4netns(1) is.
    pub slirp4netns: bool,
    /// passt(1) is.
    pub passt: bool,
    /// This user may make devices of packets.
    pub tun: bool,
    /// Sockets of the host's can be put in the place of a machine's.
    pub bypass: bool,
}

impl Survey {
    /// Looks.
    #[must_use]
    pub fn new() -> Self {
        let access = Access::READ_OK | Access::WRITE_OK;
        Self {
            pasta: program("pasta").is_some(),
            slirp4netns: program("slirp4netns").is_some(),
            passt: program("passt").is_some(),
            tun: rustix::fs::accessat(CWD, TUN, access, AtFlags::EACCESS).is_ok(),
            bypass: bypass(),
        }
    }

    /// The program that would carry packets; else what is missing, and the remedy.
    ///
    /// # Errors
    /// On one line.
    pub fn tap(&self) -> Result<Tap, String> {
        if !self.pasta && !self.slirp4netns {
            return Err("neither pasta nor slirp4netns is installed: `apt install passt` or \
                        `dnf install passt` (as root)"
                .into());
        }
        if !self.tun {
            return Err(format!(
                "{TUN} cannot be opened: `chmod 0666 {TUN}` (as root) allows what distributions do"
            ));
        }
        Ok(if self.pasta { Tap::Pasta } else { Tap::Slirp4netns })
    }

    /// How mode `user` is carried for what has a kernel of its own, where no socket can be put in another's
    /// place and no namespace has a device.
    ///
    /// # Errors
    /// What is missing, and the remedy, on one line.
    pub fn user_of_card(&self, accel: Accel) -> Result<User, String> {
        if accel == Accel::On {
            return Err(
                "accel=on puts sockets of the host's in the place of a machine's, which are \
                        under a kernel of its own with --isolation vm: leave it out"
                    .into(),
            );
        }
        match self.passt {
            true => Ok(User { bypass: false, tap: Some(Tap::Passt) }),
            false => {
                Err("passt is not installed: `apt install passt` or `dnf install passt` (as root)"
                    .into())
            }
        }
    }

    /// How mode `user` is carried.
    ///
    /// # Errors
    /// What is missing, and the remedy, on one line.
    pub fn user(&self, accel: Accel) -> Result<User, String> {
        // Nothing that carries packets is waited for, or sees to what the policy refuses.
        let alone = User { bypass: true, tap: None };
        match (accel, self.bypass, self.tap()) {
            (Accel::On, true, _) => Ok(alone),
            (Accel::On, false, _) => {
                Err("accel=on takes Linux 5.14 or newer, with Landlock from 6.7 on: leave it out"
                    .into())
            }
            (_, _, Ok(tap)) => Ok(User { bypass: false, tap: Some(tap) }),
            (Accel::Auto, true, Err(_)) => Ok(alone),
            (_, _, Err(missing)) => Err(missing),
        }
    }
}

/// Whether networks can be told apart (Linux 5.14), and whether a machine can be kept from connecting
/// the host's sockets itself: by Landlock, or by a filter, which Linux has ceased to allow to all.
fn bypass() -> bool {
    let accepts = [(0x06, 0, 0, u32::MAX)];
    sys::inet::any().is_ok_and(|socket| sys::inet::namespace(socket.as_fd()).is_ok())
        && (sys::landlock::restricts_connections()
            || sys::inet::stream().is_ok_and(|s| sys::inet::restrict(s.as_fd(), &accepts).is_ok()))
}

impl Default for Survey {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether this process may set up networks in the namespace that it is in.
///
/// # Errors
/// What is missing, on one line.
pub fn bridge() -> Result<(), String> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    // Asks for CAP_NET_ADMIN over this namespace, and for nothing else (socket(7), SO_RCVBUFFORCE).
    let size = 4096;
    match socket.and_then(|s| rustix::net::sockopt::set_socket_recv_buffer_size_force(s, size)) {
        Ok(()) => Ok(()),
        Err(_) => Err("the capability NET_ADMIN over this network is missing".into()),
    }
}

/// A program in `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|path| rustix::fs::access(path, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_carries_mode_user() {
        let all = Survey { pasta: true, slirp4netns: true, passt: true, tun: true, bypass: false };
        let tap = |survey: &Survey, accel| survey.user(accel).map(|user| (user.bypass, user.tap));
        assert_eq!(tap(&all, Accel::Auto), Ok((false, Some(Tap::Pasta))));
        let old = Survey { pasta: false, ..all.clone() };
        assert_eq!(tap(&old, Accel::Off), Ok((false, Some(Tap::Slirp4netns))));
        let closed = Survey { tun: false, ..all.clone() };
        assert!(tap(&closed, Accel::Auto).unwrap_err().contains("/dev/net/tun"));
        assert!(tap(&all, Accel::On).unwrap_err().contains("accel=on"));
        let both = Survey { bypass: true, ..all.clone() };
        assert_eq!(tap(&both, Accel::Auto), Ok((false, Some(Tap::Pasta))));
        assert_eq!(tap(&both, Accel::On), Ok((true, None)));
        let fast = Survey { bypass: true, ..closed };
        assert_eq!(tap(&fast, Accel::Auto), Ok((true, None)));
        assert!(tap(&fast, Accel::Off).is_err());
        let of_card = |survey: &Survey, accel| survey.user_of_card(accel).map(|user| user.tap);
        assert_eq!(of_card(&fast, Accel::Auto), Ok(Some(Tap::Passt)));
        assert!(of_card(&fast, Accel::On).unwrap_err().contains("kernel of its own"));
        let without = Survey { passt: false, ..all };
        assert!(of_card(&without, Accel::Off).unwrap_err().contains("apt install passt"));
    }
}
