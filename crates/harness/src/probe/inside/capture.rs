//! Packets of the machine's devices while something is done: packet(7).

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType};

use super::trace::Packet;

/// `ETH_P_ALL`, in the network's byte order.
const ALL: u32 = 0x0003u16.to_be() as u32;

/// The packets while `work` is done, and its result. No packets where the kernel or the machine's rights have
/// none to show.
pub(super) fn during<T>(work: impl FnOnce() -> T) -> (T, Vec<Packet>) {
    let Some((socket, (waiting, over))) = socket().zip(rustix::pipe::pipe().ok()) else {
        return (work(), Vec::new());
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(&socket, &waiting));
        let done = work();
        drop(over);
        (done, reader.join().unwrap_or_default())
    })
}

fn socket() -> Option<OwnedFd> {
    let protocol = Protocol::from_raw(NonZeroU32::new(ALL)?);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, Some(protocol)).ok()
}

/// Frames that are kept, and bytes of each: enough to see what goes wrong.
const MOST: usize = 1000;
const LONGEST: usize = 2048;

fn read(socket: &OwnedFd, waiting: &OwnedFd) -> Vec<Packet> {
    let (mut packets, mut twins) = (Vec::new(), Vec::new());
    let mut buffer = [0; LONGEST];
    loop {
        let mut polled = [PollFd::new(socket, PollFlags::IN), PollFd::new(waiting, PollFlags::IN)];
        if rustix::event::poll(&mut polled, None).is_err() {
            continue;
        }
        let is_over = !polled[1].revents().is_empty();
        while let Ok((count, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            let frame = &buffer[..count.min(LONGEST)];
            if packets.len() < MOST && !is_twin(&mut twins, frame) {
                packets.push(Packet::now(frame));
            }
        }
        if is_over {
            return packets;
        }
    }
}

/// Whether a frame was seen before: what goes over the loopback device is shown on its way out and on its way in.
/// It has no addresses.
fn is_twin(twins: &mut Vec<Vec<u8>>, frame: &[u8]) -> bool {
    if frame.len() < 12 || frame[..12] != [0; 12] {
        return false;
    }
    match twins.iter().position(|other| other == frame) {
        Some(at) => {
            twins.swap_remove(at);
            true
        }
        None => {
            twins.push(frame.to_vec());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_twice_is_kept_once() {
        let mut twins = Vec::new();
        let own = [vec![0; 12], vec![8, 0, 1]].concat();
        assert!(!is_twin(&mut twins, &own) && is_twin(&mut twins, &own));
        assert!(!is_twin(&mut twins, &own), "the same a second time");
        let other = [7; 20];
        assert!(!is_twin(&mut twins, &other) && !is_twin(&mut twins, &other));
    }

    #[test]
    fn work_is_done_in_any_case() {
        let (done, _) = during(|| 7);
        assert_eq!(done, 7);
    }
}
