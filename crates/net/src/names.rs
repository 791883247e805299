//! The names of a network's machines (DNS, RFC 1035): answered at the bridge's address by one
//! process a network, which ends with the last machine. Other names are asked of the host's resolvers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::forward::leave_everything;
use crate::lease::{Directory, Member};

pub(crate) const PORT: u16 = 53;
/// For a resolver to answer; those who ask try again after 5 s (resolv.conf(5), `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions that are passed on at once. More are lost, as datagrams are.
const AT_ONCE: usize = 128;

/// Starts a network's process where none answers; to be called with a lease taken. On return either that
/// process runs, or one answers that sees the lease, and so stays for as long as it is kept.
///
/// # Errors
/// Where the port is taken.
pub(crate) fn start(directory: &Directory, gateway: Ipv4Addr, internal: bool) -> Result<()> {
    let Some(lock) = turn(directory, gateway) else { return Ok(()) };
    begin(directory, &lock, gateway, internal)
}

/// Starts it where the last one was killed, and machines need it.
pub(crate) fn resume(directory: &Directory) {
    let (Some(up), Some(config)) = (directory.up(), directory.config()) else { return };
    if up.held || directory.living().is_empty() {
        return;
    }
    if let Some(lock) = directory.speaker() {
        // Who starts a machine next tries again, and says what is wrong.
        let _ = begin(directory, &lock, up.gateway(), config.internal);
    }
}

/// The right to answer; nothing where somebody answers. Who has that right may have looked for leases
/// for the last time, or been killed, and gives it up only with its end: so it is asked whether it answers. This host may
/// keep one from asking (a filter of packets, a loopback device that is down), and not the machines: so a silent one
/// is believed in the end.
fn turn(directory: &Directory, gateway: Ipv4Addr) -> Option<File> {
    let until = Instant::now() + LONGEST_TURN;
    while Instant::now() < until {
        if let Some(lock) = directory.speaker() {
            return Some(lock);
        }
        if answers(gateway) {
            return None;
        }
    }
    None
}

/// Longer than any process takes to end.
const LONGEST_TURN: Duration = Duration::from_secs(2);
/// Between two looks at whether it still has that right.
const LOOK: Duration = Duration::from_millis(20);

fn answers(gateway: Ipv4Addr) -> bool {
    let ask = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        socket.connect((gateway, PORT))?;
        socket.send(&STATUS)?;
        socket.recv(&mut [0; 512])
    };
    match ask() {
        Ok(_) => true,
        Err(error) => {
            // Nobody is there, which is known at once.
            if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
                std::thread::sleep(LOOK);
            }
            false
        }
    }
}

fn begin(directory: &Directory, lock: &File, gateway: Ipv4Addr, internal: bool) -> Result<()> {
    let what = || format!("cannot answer names at {gateway}:{PORT}");
    let (udp, tcp) = listen(gateway).with_context(what)?;
    let upstream = upstream(internal);
    if sys::process::fork().with_context(what)?.is_some() {
        return Ok(());
    }
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let kept = [lock.as_fd(), udp.as_fd(), tcp.as_fd()];
        if leave_everything(&kept, "pj-names").is_ok() {
            let _ = rustix::process::setsid();
            // A network that was made anew may have another address.
            let moved = || directory.up().is_some_and(|up| up.gateway() != gateway);
            let over = || directory.living().is_empty() || moved();
            serve(directory, &udp, &tcp, None, &Arc::new(upstream), over);
        }
    }));
    sys::process::exit_now(0)
}

/// The sockets of one that was killed may be there for a moment longer than its lock: they are shared
/// with it until then (socket(7), `SO_REUSEPORT`), which the kernel grants to the same user only.
fn listen(gateway: Ipv4Addr) -> io::Result<(UdpSocket, TcpListener)> {
    let bound = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        if kind == SocketType::STREAM {
            // Its conversations may have just ended.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::bind(&socket, &SocketAddr::from((gateway, PORT)))?;
        Ok::<_, io::Error>(socket)
    };
    let (udp, tcp) = (bound(SocketType::DGRAM)?, bound(SocketType::STREAM)?);
    rustix::net::listen(&tcp, 128)?;
    Ok((udp.into(), tcp.into()))
}

/// Who is asked for what is no machine's name.
pub(crate) fn upstream(internal: bool) -> Vec<IpAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    if internal { Vec::new() } else { resolvers(&text) }
}

fn resolvers(text: &str) -> Vec<IpAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse().ok();
    text.lines().filter_map(address).collect()
}

/// Until it is over, asked for once a second where nobody asks, or `other` ends.
pub(crate) fn serve(
    directory: &Directory,
    udp: &UdpSocket,
    tcp: &TcpListener,
    other: Option<BorrowedFd<'_>>,
    upstream: &Arc<Vec<IpAddr>>,
    over: impl Fn() -> bool,
) {
    let busy = Arc::new(AtomicUsize::new(0));
    loop {
        let mut polled = vec![PollFd::new(udp, PollFlags::IN), PollFd::new(tcp, PollFlags::IN)];
        polled.extend(other.map(|other| PollFd::from_borrowed_fd(other, PollFlags::IN)));
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        if matches!(rustix::event::poll(&mut polled, Some(&second)), Ok(0)) {
            if over() {
                return;
            }
            continue;
        }
        if polled.get(2).is_some_and(|other| !other.revents().is_empty()) {
            return;
        }
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let question = buffer[..length].to_vec();
            let known = known_to(directory, from.ip());
            if let Some(answer) = answer(&question, &known, upstream.is_empty()) {
                let _ = udp.send_to(&answer, from);
                continue;
            }
            let (Ok(socket), upstream) = (udp.try_clone(), upstream.clone()) else { continue };
            in_background(&busy, move || {
                if let Some(answer) = ask(&question, &upstream) {
                    let _ = socket.send_to(&answer, from);
                }
            });
        }
        while let Ok((stream, _)) = tcp.accept() {
            let (directory, upstream) = (directory.clone(), upstream.clone());
            in_background(&busy, move || {
                // Ends with the first that makes no sense, or takes too long.
                let _ = converse(stream, &directory, &upstream);
            });
        }
    }
}

/// Machines of this network, and of the others that whoever asks is on: it has one resolver.
fn known_to(directory: &Directory, asker: IpAddr) -> Vec<Member> {
    let mut members = directory.living();
    let id = members.iter().find(|member| IpAddr::V4(member.ip) == asker).map(|m| m.id.clone());
    let others = directory.others().into_iter().map(|other| other.living());
    let shared = others.filter(|all| all.iter().any(|member| Some(&member.id) == id.as_ref()));
    members.extend(shared.flatten().collect::<Vec<_>>());
    members
}

fn in_background(busy: &Arc<AtomicUsize>, act: impl FnOnce() + Send + 'static) {
    if busy.fetch_add(1, Ordering::Relaxed) >= AT_ONCE {
        busy.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    let at_end = busy.clone();
    let started = std::thread::Builder::new().stack_size(128 << 10).spawn(move || {
        act();
        at_end.fetch_sub(1, Ordering::Relaxed);
    });
    if started.is_err() {
        busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Passes a question on as it is, to one resolver after the other.
fn ask(question: &[u8], upstream: &[IpAddr]) -> Option<Vec<u8>> {
    upstream.iter().find_map(|resolver| {
        let any = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        socket.connect((*resolver, PORT)).ok()?;
        socket.send(question).ok()?;
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).ok()?;
            if buffer[..length].get(..2) == question.get(..2) {
                return Some(buffer[..length].to_vec());
            }
        }
    })
}

/// Questions over TCP have their length before them (RFC 1035, section 4.2.2).
fn converse(mut stream: TcpStream, directory: &Directory, upstream: &[IpAddr]) -> Option<()> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    loop {
        let question = framed(&mut stream)?;
        let asker = stream.peer_addr().ok()?.ip();
        let known = answer(&question, &known_to(directory, asker), upstream.is_empty());
        let answer = known.or_else(|| {
            upstream.iter().find_map(|resolver| {
                let to = SocketAddr::new(*resolver, PORT);
                let mut other = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
                other.set_read_timeout(Some(PATIENCE)).ok()?;
                send(&mut other, &question)?;
                framed(&mut other)
            })
        })?;
        send(&mut stream, &answer)?;
    }
}

fn framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> Option<()> {
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    stream.write_all(&[&length, message].concat()).ok()
}

const HEADER: usize = 12;
const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
/// Answer, authoritative; recursion was desired, and is available.
const ANSWER: u16 = 0x8480;
const RECURSION_DESIRED: u16 = 0x0100;
/// What is asked for (section 4.1.1, OPCODE), in its place among the flags: 0 is a question, and we
/// answer nothing else.
const OPERATION: u16 = 0x7800;
const IS_ANSWER: u16 = 0x8000;
const NOT_IMPLEMENTED: u16 = 4;
/// Asks for a server's status, and nothing of it.
const STATUS: [u8; HEADER] = [0xab, 0xcd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NO_SUCH_NAME: u16 = 3;
/// Seconds that an answer may be kept: machines come and go.
const LIFE: u32 = 1;

/// The answer to a question for one of these machines; nothing where it is for another, unless
/// there is nobody else to be asked (`alone`).
fn answer(message: &[u8], members: &[Member], alone: bool) -> Option<Vec<u8>> {
    let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (flags, questions) = (word(2)?, word(4)?);
    if flags & IS_ANSWER == 0 && flags & OPERATION != 0 {
        let flags = IS_ANSWER | (flags & OPERATION) | NOT_IMPLEMENTED;
        return Some([&message[..2], &flags.to_be_bytes(), &[0; 8]].concat());
    }
    if flags & IS_ANSWER != 0 || questions != 1 {
        return None;
    }
    let (name, end) = name_at(message, HEADER)?;
    let (kind, class) = (word(end)?, word(end + 2)?);
    let is_it = |member: &&Member| member.names.iter().any(|n| n.eq_ignore_ascii_case(&name));
    let found: Vec<&Member> = members.iter().filter(is_it).collect();
    if found.is_empty() && !alone {
        return None;
    }
    let data: Vec<Vec<u8>> = found
        .iter()
        .filter_map(|member| match kind {
            A => Some(member.ip.octets().to_vec()),
            AAAA => member.ip6.map(|ip| ip.octets().to_vec()),
            _ => None,
        })
        .filter(|_| class == INTERNET)
        .collect();
    let code = if found.is_empty() { NO_SUCH_NAME } else { 0 };
    let mut answer = message[..2].to_vec();
    answer.extend((ANSWER | (flags & RECURSION_DESIRED) | code).to_be_bytes());
    answer.extend([0, 1, 0, data.len() as u8, 0, 0, 0, 0]);
    answer.extend(&message[HEADER..end + 4]);
    for bytes in data {
        // The name is that of the question, by a pointer (section 4.1.4).
        answer.extend([0xc0, HEADER as u8]);
        answer.extend(kind.to_be_bytes());
        answer.extend(INTERNET.to_be_bytes());
        answer.extend(LIFE.to_be_bytes());
        answer.extend((bytes.len() as u16).to_be_bytes());
        answer.extend(bytes);
    }
    Some(answer)
}

/// A name without pointers, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 {
            return None;
        }
        let label = std::str::from_utf8(message.get(at..at + length)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name += label;
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::network::Mac;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    fn member() -> Member {
        Member {
            machine: "web".into(),
            id: "0".into(),
            ip: Ipv4Addr::new(10, 87, 0, 5),
            ip6: None,
            mac: Mac([2, 0, 0, 0, 0, 5]),
            device: "v".into(),
            names: vec!["web".into(), "www.example".into()],
        }
    }

    #[test]
    fn machines_are_answered_for() {
        let members = [member()];
        let told = answer(&question("WEB", A), &members, false).unwrap();
        assert_eq!(&told[..8], [0xab, 0xcd, 0x85, 0x80, 0, 1, 0, 1]);
        assert_eq!(&told[told.len() - 4..], [10, 87, 0, 5]);
        let told = answer(&question("www.example", AAAA), &members, false).unwrap();
        assert_eq!(&told[2..8], [0x85, 0x80, 0, 1, 0, 0]);
        assert_eq!(answer(&question("other", A), &members, false), None);
        let told = answer(&question("other", A), &members, true).unwrap();
        assert_eq!(told[3] & 15, 3);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let whole = question("web", A);
        for length in 0..whole.len() {
            assert_eq!(answer(&whole[..length], &[member()], true), None, "{length}");
        }
        let mut pointer = whole.clone();
        pointer[HEADER] = 0xc0;
        assert_eq!(answer(&pointer, &[member()], true), None);
        let told = answer(&STATUS, &[], false).unwrap();
        assert_eq!(told, [0xab, 0xcd, 0x90, 4, 0, 0, 0, 0, 0, 0, 0, 0]);
        // Two servers do not answer each other.
        assert_eq!(answer(&told, &[], true), None);
    }
}
