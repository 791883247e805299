//! Many sessions over one port, each with streams that are joined to local descriptors.
//!
//! A sender has so many bytes of a stream in flight as its receiver has room for, so that a stream that
//! nobody reads holds up no other one, and neither end can make the other keep more than a window
//! of each. Everything is done by whoever polls: there is no thread.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::frame::{CHUNK, Frame, Kind, Link, WINDOW};

/// Standard input, or a terminal's.
pub(super) const INPUT: u8 = 0;
/// Standard output, or a terminal's.
pub(super) const OUTPUT: u8 = 1;
/// Standard error.
pub(super) const ERROR: u8 = 2;
/// What a visitor says in the end.
pub(super) const ANSWER: u8 = 3;

/// What must not be exceeded by one write, so that it never blocks: after POLLOUT a pipe has room for
/// that (pipe(7), `PIPE_BUF`).
const WRITE: usize = 4096;

/// One end of the channel.
pub(super) struct Channel {
    link: Link,
    sessions: BTreeMap<u32, Streams>,
    /// What came after a session was opened: its owner has to join its streams first.
    pending: VecDeque<Frame>,
}

#[derive(Default)]
struct Streams {
    sources: BTreeMap<u8, Source>,
    sinks: BTreeMap<u8, Sink>,
}

/// A local descriptor that is read, and sent.
struct Source {
    descriptor: OwnedFd,
    credit: usize,
    /// What is there now is the rest.
    last: bool,
}

/// A local descriptor that what comes is written to.
struct Sink {
    /// Nothing, once nobody reads it.
    descriptor: Option<OwnedFd>,
    waiting: Vec<u8>,
    ended: bool,
}

/// What the owner of a channel has to act upon.
#[derive(Debug)]
pub(super) enum Event {
    Hello,
    Open { session: u32, content: Vec<u8> },
    Tell { session: u32, content: Vec<u8> },
    Close { session: u32 },
}

/// What is polled on behalf of a channel.
#[derive(Debug, Clone, Copy)]
enum Key {
    Link,
    Source(u32, u8),
    Sink(u32, u8),
}

impl Channel {
    /// The descriptor must not block.
    pub(super) fn new(port: OwnedFd) -> Self {
        Self { link: Link::new(port), sessions: BTreeMap::new(), pending: VecDeque::new() }
    }

    /// Says something, or asks for it.
    pub(super) fn put(&mut self, kind: Kind, session: u32, content: &[u8]) {
        self.link.put(kind, session, 0, content);
    }

    /// Reads a descriptor from now on, and sends what comes.
    pub(super) fn send_from(&mut self, session: u32, stream: u8, descriptor: OwnedFd) {
        let source = Source { descriptor, credit: WINDOW, last: false };
        self.sessions.entry(session).or_default().sources.insert(stream, source);
    }

    /// Writes to a descriptor what comes from now on.
    pub(super) fn write_to(&mut self, session: u32, stream: u8, descriptor: OwnedFd) {
        let sink = Sink { descriptor: Some(descriptor), waiting: Vec::new(), ended: false };
        self.sessions.entry(session).or_default().sinks.insert(stream, sink);
    }

    /// Whoever wrote to the sources of a session has ended: what is there is the rest. They must not
    /// block.
    pub(super) fn finish(&mut self, session: u32) {
        for source in
            self.sessions.get_mut(&session).iter_mut().flat_map(|s| s.sources.values_mut())
        {
            source.last = true;
        }
    }

    /// Whether nothing of a session is left to be sent.
    pub(super) fn is_sent(&self, session: u32) -> bool {
        self.sessions.get(&session).is_none_or(|streams| streams.sources.is_empty())
    }

    /// Whether all that came for a session is written.
    pub(super) fn is_written(&self, session: u32) -> bool {
        self.sessions
            .get(&session)
            .is_none_or(|streams| streams.sinks.values().all(|sink| sink.waiting.is_empty()))
    }

    /// Lets go of a session's descriptors.
    pub(super) fn forget(&mut self, session: u32) {
        self.sessions.remove(&session);
    }

    /// Waits until something can be done, or one of `others` is ready, and does what is the channel's;
    /// gives what is not, and what was found of the others.
    ///
    /// # Errors
    /// Where the other end is gone, or sends nonsense.
    pub(super) fn turn(
        &mut self,
        others: &[(BorrowedFd<'_>, PollFlags)],
        limit: Option<Timespec>,
    ) -> io::Result<(Vec<Event>, Vec<PollFlags>)> {
        self.link.flush()?;
        let (keys, found, others) = self.poll(others, limit)?;
        let mut events = Vec::new();
        for (key, found) in keys.into_iter().zip(found).filter(|(_, found)| !found.is_empty()) {
            match key {
                Key::Link => {
                    if found.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                        self.pending.extend(self.link.receive()?);
                    }
                }
                Key::Source(session, stream) => self.read(session, stream),
                Key::Sink(session, stream) => self.write(session, stream),
            }
        }
        while let Some(frame) = self.pending.pop_front() {
            events.extend(self.take(frame)?);
            if matches!(events.last(), Some(Event::Open { .. })) {
                break;
            }
        }
        self.finish_sources();
        self.link.flush()?;
        Ok((events, others))
    }

    fn poll(
        &self,
        others: &[(BorrowedFd<'_>, PollFlags)],
        limit: Option<Timespec>,
    ) -> io::Result<(Vec<Key>, Vec<PollFlags>, Vec<PollFlags>)> {
        let mut polled: Vec<PollFd<'_>> =
            others.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let mut keys = vec![Key::Link];
        let out = if self.link.is_behind() { PollFlags::OUT } else { PollFlags::empty() };
        polled.push(PollFd::new(&self.link, PollFlags::IN | out));
        for (session, streams) in &self.sessions {
            for (stream, source) in &streams.sources {
                if source.credit > 0 && !source.last && !self.link.is_full() {
                    keys.push(Key::Source(*session, *stream));
                    polled.push(PollFd::new(&source.descriptor, PollFlags::IN));
                }
            }
            for (stream, sink) in &streams.sinks {
                if let Some(descriptor) =
                    sink.descriptor.as_ref().filter(|_| !sink.waiting.is_empty())
                {
                    keys.push(Key::Sink(*session, *stream));
                    polled.push(PollFd::new(descriptor, PollFlags::OUT));
                }
            }
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let limit = if self.can_finish() || !self.pending.is_empty() { Some(now) } else { limit };
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => polled.iter_mut().for_each(PollFd::clear_revents),
            Err(error) => return Err(error.into()),
        }
        let found: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        let (others, own) = found.split_at(others.len());
        Ok((keys, own.to_vec(), others.to_vec()))
    }

    /// Does with a frame what can be done here; what is for the owner is given back.
    fn take(&mut self, frame: Frame) -> io::Result<Option<Event>> {
        let Frame { kind, stream, session, content } = frame;
        let streams = self.sessions.get_mut(&session);
        match kind {
            Kind::Hello => return Ok(Some(Event::Hello)),
            Kind::Open => return Ok(Some(Event::Open { session, content })),
            Kind::Tell => return Ok(Some(Event::Tell { session, content })),
            Kind::Close => return Ok(Some(Event::Close { session })),
            Kind::Data => {
                let Some(sink) = streams.and_then(|s| s.sinks.get_mut(&stream)) else {
                    return Ok(None);
                };
                if sink.waiting.len() + content.len() > WINDOW {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "more than was asked for",
                    ));
                }
                if sink.descriptor.is_some() {
                    sink.waiting.extend_from_slice(&content);
                }
            }
            Kind::Credit => {
                let amount = content.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                if let Some(source) = streams.and_then(|s| s.sources.get_mut(&stream)) {
                    source.credit = (source.credit + amount as usize).min(WINDOW);
                }
            }
            Kind::End => {
                if let Some(sink) = streams.and_then(|s| s.sinks.get_mut(&stream)) {
                    sink.ended = true;
                    self.close_sink(session, stream);
                }
            }
            Kind::Break => {
                if let Some(streams) = streams {
                    streams.sources.remove(&stream);
                }
            }
        }
        Ok(None)
    }

    /// Closes a sink that everything was written to: its reader sees the end then.
    fn close_sink(&mut self, session: u32, stream: u8) {
        let Some(streams) = self.sessions.get_mut(&session) else { return };
        if streams.sinks.get(&stream).is_some_and(|sink| sink.ended && sink.waiting.is_empty()) {
            streams.sinks.remove(&stream);
        }
    }

    fn read(&mut self, session: u32, stream: u8) {
        let Some(streams) = self.sessions.get_mut(&session) else { return };
        let Some(source) = streams.sources.get_mut(&stream) else { return };
        let mut buffer = vec![0; source.credit.min(CHUNK)];
        match rustix::io::read(&source.descriptor, &mut buffer) {
            Ok(length) if length > 0 => {
                source.credit -= length;
                self.link.put(Kind::Data, session, stream, &buffer[..length]);
            }
            Err(rustix::io::Errno::AGAIN) if source.last => self.end(session, stream),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // The end of a file, or a terminal that nobody has open any more (EIO).
            _ => self.end(session, stream),
        }
    }

    fn end(&mut self, session: u32, stream: u8) {
        self.link.put(Kind::End, session, stream, &[]);
        if let Some(streams) = self.sessions.get_mut(&session) {
            streams.sources.remove(&stream);
        }
    }

    fn last_sources(&self) -> Vec<(u32, u8)> {
        let ready = |source: &Source| source.last && source.credit > 0;
        let of = |(session, streams): (&u32, &Streams)| {
            let session = *session;
            let found = streams.sources.iter().filter(|(_, source)| ready(source));
            found.map(|(stream, _)| (session, *stream)).collect::<Vec<_>>()
        };
        self.sessions.iter().flat_map(of).collect()
    }

    fn can_finish(&self) -> bool {
        !self.link.is_full() && !self.last_sources().is_empty()
    }

    /// Reads what is left in sources that nobody writes to any more.
    fn finish_sources(&mut self) {
        for (session, stream) in self.last_sources() {
            if !self.link.is_full() {
                self.read(session, stream);
            }
        }
    }

    fn write(&mut self, session: u32, stream: u8) {
        let sink = self.sessions.get_mut(&session).and_then(|s| s.sinks.get_mut(&stream));
        let Some(sink) = sink else { return };
        let Some(descriptor) = &sink.descriptor else { return };
        let length = sink.waiting.len().min(WRITE);
        match rustix::io::write(descriptor.as_fd(), &sink.waiting[..length]) {
            Ok(length) => {
                sink.waiting.drain(..length);
                self.link.put(Kind::Credit, session, stream, &(length as u32).to_le_bytes());
                self.close_sink(session, stream);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // Nobody reads it any more, and whoever writes it is to hear that.
            Err(_) => {
                (sink.descriptor, sink.waiting) = (None, Vec::new());
                self.link.put(Kind::Break, session, stream, &[]);
                self.close_sink(session, stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pair() -> (Channel, Channel) {
        let (a, b) = UnixStream::pair().unwrap();
        for end in [&a, &b] {
            end.set_nonblocking(true).unwrap();
        }
        (Channel::new(a.into()), Channel::new(b.into()))
    }

    /// Both ends in turn, until neither has anything to do.
    fn settle(a: &mut Channel, b: &mut Channel) {
        let soon = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        for _ in 0..200 {
            a.turn(&[], Some(soon)).unwrap();
            b.turn(&[], Some(soon)).unwrap();
        }
    }

    #[test]
    fn what_nobody_reads_holds_up_nobody_else() {
        let (mut near, mut far) = pair();
        let (stuck_reader, stuck) = UnixStream::pair().unwrap();
        let (mut reader, fine) = UnixStream::pair().unwrap();
        stuck.set_nonblocking(true).unwrap();
        far.write_to(1, OUTPUT, stuck.into());
        far.write_to(2, OUTPUT, fine.into());
        near.send_from(1, OUTPUT, std::fs::File::open("/dev/zero").unwrap().into());
        let (mut writer, source) = UnixStream::pair().unwrap();
        near.send_from(2, OUTPUT, source.into());
        writer.write_all(&[7; 5000]).unwrap();
        drop(writer);
        settle(&mut near, &mut far);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(got, [7; 5000]);
        assert!(far.sessions[&1].sinks[&OUTPUT].waiting.len() <= WINDOW);
        assert_eq!(near.sessions[&1].sources[&OUTPUT].credit, 0, "it waits for room");
        drop(stuck_reader);
        settle(&mut near, &mut far);
        assert!(near.sessions[&1].sources.is_empty(), "its writer heard that nobody reads");
    }

    #[test]
    fn the_rest_is_sent_although_somebody_could_still_write() {
        let (mut near, mut far) = pair();
        let (mut writer, source) = UnixStream::pair().unwrap();
        source.set_nonblocking(true).unwrap();
        let (reader, sink) = UnixStream::pair().unwrap();
        near.send_from(3, ERROR, source.into());
        far.write_to(3, ERROR, sink.into());
        writer.write_all(b"last words").unwrap();
        near.finish(3);
        settle(&mut near, &mut far);
        assert!(near.is_sent(3) && far.is_written(3));
        let mut got = String::new();
        { reader }.read_to_string(&mut got).unwrap();
        assert_eq!(got, "last words");
    }

    #[test]
    fn who_sends_more_than_there_is_room_for_is_refused() {
        let (mut near, mut far) = pair();
        let (_reader, sink) = UnixStream::pair().unwrap();
        far.write_to(1, OUTPUT, sink.into());
        for _ in 0..WINDOW / CHUNK + 1 {
            near.link.put(Kind::Data, 1, OUTPUT, &[0; CHUNK]);
        }
        let now = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        let refused = (0..100).find_map(|_| {
            near.turn(&[], now).unwrap();
            // Nothing is written meanwhile.
            let frames = far.link.receive().unwrap_or_default();
            frames.into_iter().find_map(|frame| far.take(frame).err())
        });
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::InvalidData);
    }
}
