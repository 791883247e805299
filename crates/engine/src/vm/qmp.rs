//! QEMU's control protocol (QMP, "QEMU Machine Protocol Specification"): JSON values on lines. Who
//! speaks there is not to be trusted: a guest may have taken QEMU over.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::{Value, json};

/// Longest line that is taken: bytes. The longest answer there is, QEMU's own description of its
/// protocol, has less than a million.
const LONGEST: usize = 4 << 20;

/// Events that are kept for who asks for them; of more, the oldest are forgotten.
const EVENTS: usize = 1024;

/// A connection on which commands can be given.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    buffer: Vec<u8>,
    /// How much of the buffer has no line's end.
    searched: usize,
    events: VecDeque<Event>,
    next: u64,
}

/// Something that happened to the machine by itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Such as `SHUTDOWN`.
    pub name: String,
    /// What there is to say of it.
    pub data: Value,
}

/// QEMU did not do what it was told; it runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// What it was told.
    pub command: String,
    /// Its class, such as `DeviceNotFound`.
    pub class: String,
    /// Why, in QEMU's words.
    pub reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU refuses {}: {}", self.command, self.reason)
    }
}

impl std::error::Error for Refused {}

impl Monitor {
    /// Takes part in the greeting, after which commands can be given.
    ///
    /// # Errors
    /// Where QEMU ends, says something else, or does not greet until then.
    pub fn greet(stream: UnixStream, until: Instant) -> Result<Self> {
        let mut monitor =
            Self { stream, buffer: Vec::new(), searched: 0, events: VecDeque::new(), next: 0 };
        let greeting = monitor.message(until).context("waiting for QEMU's greeting")?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU's control socket greets with {}", shortened(&greeting));
        }
        monitor.execute("qmp_capabilities", Value::Null, until)?;
        Ok(monitor)
    }

    /// Gives a command and waits for what comes of it.
    ///
    /// # Errors
    /// [`Refused`]; where QEMU ends, or does not answer until then.
    pub fn execute(&mut self, command: &str, arguments: Value, until: Instant) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let what = || format!("telling QEMU {command}");
        self.write(format!("{request}\n").as_bytes(), until).with_context(what)?;
        loop {
            let mut answer = self.message(until).with_context(what)?;
            if self.keep(&answer) || answer.get("id") != Some(&json!(id)) {
                // An answer to a command that was given up before.
                continue;
            }
            if let Some(error) = answer.get("error") {
                let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
                let (class, reason) = (word("class"), word("desc"));
                return Err(anyhow!(Refused { command: command.to_owned(), class, reason }));
            }
            match answer.get_mut("return") {
                Some(value) => return Ok(value.take()),
                None => bail!("QEMU answers {command} with {}", shortened(&answer)),
            }
        }
    }

    /// The next event, which may have come before.
    ///
    /// # Errors
    /// Where QEMU ends, or nothing happens until then.
    pub fn event(&mut self, until: Instant) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let message = self.message(until).context("waiting for an event of QEMU's")?;
            self.keep(&message);
        }
    }

    /// An event that is there without waiting. For who polls the descriptor: nothing more is there when
    /// this says so.
    ///
    /// # Errors
    /// Where QEMU has ended.
    pub fn poll_event(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.line()? {
                Some(line) => {
                    let message = parse(&line)?;
                    self.keep(&message);
                }
                None if !self.fill()? => return Ok(None),
                None => {}
            }
        }
    }

    /// Whether it was an event, which is kept.
    fn keep(&mut self, message: &Value) -> bool {
        let Some(name) = message.get("event").and_then(Value::as_str) else { return false };
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let data = message.get("data").cloned().unwrap_or(Value::Null);
        self.events.push_back(Event { name: name.to_owned(), data });
        true
    }

    fn message(&mut self, until: Instant) -> Result<Value> {
        loop {
            if let Some(line) = self.line()? {
                return parse(&line);
            }
            if !self.fill()? {
                self.wait(PollFlags::IN, until)?;
            }
        }
    }

    /// A whole line of what has arrived.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                let end = self.searched + at + 1;
                self.searched = 0;
                Ok(Some(self.buffer.drain(..end).collect()))
            }
            None => {
                self.searched = self.buffer.len();
                if self.searched > LONGEST {
                    bail!("QEMU sends a line of more than {LONGEST} bytes");
                }
                Ok(None)
            }
        }
    }

    /// Whether something arrived.
    fn fill(&mut self) -> Result<bool> {
        let mut room = [0; 16 << 10];
        match recv(&self.stream, &mut room[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => bail!("QEMU has ended"),
            Ok((_, count)) => {
                self.buffer.extend_from_slice(&room[..count]);
                Ok(true)
            }
            Err(error) if error == rustix::io::Errno::AGAIN || error == rustix::io::Errno::INTR => {
                Ok(false)
            }
            Err(error) => Err(error).context("reading QEMU's control socket"),
        }
    }

    fn write(&mut self, mut bytes: &[u8], until: Instant) -> Result<()> {
        while !bytes.is_empty() {
            match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => bytes = &bytes[count..],
                Err(rustix::io::Errno::AGAIN) => self.wait(PollFlags::OUT, until)?,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::PIPE) => bail!("QEMU has ended"),
                Err(error) => return Err(error).context("writing to QEMU's control socket"),
            }
        }
        Ok(())
    }

    fn wait(&self, flags: PollFlags, until: Instant) -> Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("QEMU does not answer in time");
        }
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 });
        let mut polled = [PollFd::new(&self.stream, flags)];
        match poll(&mut polled, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(io::Error::from(error)).context("waiting for QEMU"),
        }
    }
}

impl AsFd for Monitor {
    /// Readable when there may be an event.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn parse(line: &[u8]) -> Result<Value> {
    let message = serde_json::from_slice(line);
    message.with_context(|| {
        let start = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        format!("QEMU's control socket says {start:?}, which is no JSON")
    })
}

fn shortened(value: &Value) -> String {
    value.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::time::Duration;

    use super::*;

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(200)
    }

    /// What a monitor makes of a peer that says this at once, whatever it is told.
    fn with(said: &str) -> (Result<Monitor>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(said.as_bytes()).unwrap();
        (Monitor::greet(ours, soon()), theirs)
    }

    fn why(result: Result<impl Sized>) -> String {
        format!("{:#}", result.map(drop).unwrap_err())
    }

    #[test]
    fn commands_are_answered_and_events_kept() {
        let said = format!(
            "{GREETING}{{\"return\": {{}}, \"id\": 0}}\r\n\
             {{\"event\": \"STOP\", \"timestamp\": {{}}}}\r\n\
             {{\"return\": {{\"late\": 1}}, \"id\": 77}}\r\n\
             {{\"return\": {{\"running\": true}}, \"id\": 1}}\r\n\
             {{\"event\": \"SHUTDOWN\", \"data\": {{\"reason\": \"guest-reset\"}}}}\r\n\
             {{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no such thing\"}}, \"id\": 2}}\r\n"
        );
        let (monitor, mut peer) = with(&said);
        let mut monitor = monitor.unwrap();
        let status = monitor.execute("query-status", Value::Null, soon()).unwrap();
        assert_eq!(status["running"], true);
        assert_eq!(monitor.event(soon()).unwrap().name, "STOP");
        let error = monitor.execute("nothing", json!({"a": 1}), soon()).unwrap_err();
        let refused = error.downcast_ref::<Refused>().unwrap();
        assert_eq!(refused.to_string(), "QEMU refuses nothing: no such thing");
        let event = monitor.poll_event().unwrap().unwrap();
        assert_eq!((&event.name[..], &event.data["reason"]), ("SHUTDOWN", &json!("guest-reset")));
        assert_eq!(monitor.poll_event().unwrap(), None);
        let mut heard = vec![0; 1024];
        let count = peer.read(&mut heard).unwrap();
        let heard = String::from_utf8_lossy(&heard[..count]).into_owned();
        assert!(heard.contains(r#""execute":"query-status","id":1"#), "{heard}");
        assert!(heard.contains(r#""arguments":{"a":1}"#), "{heard}");
        drop(peer);
        assert!(why(monitor.poll_event()).contains("has ended"));
    }

    #[test]
    fn who_stalls_lies_or_floods_is_left() {
        assert!(why(with("").0).contains("in time"));
        assert!(why(with(GREETING).0).contains("telling QEMU qmp_capabilities: "));
        assert!(why(with("{}\n").0).contains("greets with {}"));
        assert!(why(with("hello\n").0).contains("no JSON"));
        let deep = format!("{}\n", "[".repeat(100_000));
        assert!(why(with(&deep).0).contains("no JSON"));
        let neither = format!("{GREETING}{{\"id\": 0}}\n");
        assert!(why(with(&neither).0).contains("answers qmp_capabilities with"));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let flood = std::thread::spawn(move || {
            // Until the other end is closed.
            while theirs.write_all(&[b'x'; 64 << 10]).is_ok() {}
        });
        let until = Instant::now() + Duration::from_secs(60);
        assert!(why(Monitor::greet(ours, until)).contains("a line of more than"));
        flood.join().unwrap();
    }

    #[test]
    fn of_too_many_events_the_oldest_are_forgotten() {
        let (monitor, mut peer) = with(&format!("{GREETING}{{\"return\": {{}}, \"id\": 0}}\n"));
        let mut monitor = monitor.unwrap();
        let writer = std::thread::spawn(move || {
            for number in 0..EVENTS + 10 {
                peer.write_all(format!("{{\"event\": \"E{number}\"}}\n").as_bytes()).unwrap();
            }
            peer.write_all(b"{\"return\": 1, \"id\": 1}\n").unwrap();
            peer
        });
        let until = Instant::now() + Duration::from_secs(60);
        monitor.execute("x", Value::Null, until).unwrap();
        drop(writer.join().unwrap());
        assert_eq!(monitor.event(soon()).unwrap().name, "E10");
    }
}
