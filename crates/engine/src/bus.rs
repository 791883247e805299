//! As much of D-Bus as it takes to ask a machine's systemd how it is (D-Bus Specification
//! 0.42): one connection to its private socket, calls without a bus in between, and
//! answers that are not to be trusted.

use std::io::{self, Read, Write};

/// Largest message that is read: bytes. A list of all units of a large system has some hundred KiB.
const MAX_MESSAGE: usize = 4 << 20;

/// A connection that has been authenticated as root.
pub struct Bus<S> {
    stream: S,
    serial: u32,
    heard: u64,
}

impl<S: Read + Write> Bus<S> {
    /// Authenticates as user 0 ("EXTERNAL", by the socket's credentials).
    ///
    /// # Errors
    /// Where the other side refuses, or says something else.
    pub fn connect(mut stream: S) -> io::Result<Self> {
        // The hex is that of "0".
        stream.write_all(b"\0AUTH EXTERNAL 30\r\nBEGIN\r\n")?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(nonsense("its greeting is too long"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it refuses to talk"));
        }
        Ok(Self { stream, serial: 0, heard: 0 })
    }

    /// The manager's `SystemState`, such as `running` or `degraded`.
    ///
    /// # Errors
    /// Where the call fails or its answer makes no sense.
    pub fn system_state(&mut self) -> io::Result<String> {
        let mut body = Body::default();
        body.string(MANAGER);
        body.string("SystemState");
        let reply = self.call("org.freedesktop.DBus.Properties", "Get", "ss", &body.0)?;
        let mut reader = Reader::new(&reply);
        if reader.signature()? != "s" {
            return Err(nonsense("the system's state is no text"));
        }
        reader.string()
    }

    /// Whether services that do not report in time are killed (`ServiceWatchdogs`, systemd 237).
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn watchdogs(&mut self) -> io::Result<bool> {
        let mut body = Body::default();
        body.string(MANAGER);
        body.string("ServiceWatchdogs");
        let reply = self.call("org.freedesktop.DBus.Properties", "Get", "ss", &body.0)?;
        let mut reader = Reader::new(&reply);
        if reader.signature()? != "b" {
            return Err(nonsense("it does not say whether it watches services"));
        }
        Ok(reader.number()? != 0)
    }

    /// Sets [`Bus::watchdogs`].
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn set_watchdogs(&mut self, on: bool) -> io::Result<()> {
        let mut body = Body::default();
        body.string(MANAGER);
        body.string("ServiceWatchdogs");
        body.signature("b");
        body.number(on.into());
        self.call("org.freedesktop.DBus.Properties", "Set", "ssv", &body.0).map(drop)
    }

    /// The system's state, and what has failed where it is degraded, a line each.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn state_and_failures(&mut self) -> io::Result<String> {
        let mut text = self.system_state()? + "\n";
        if text == "degraded\n" {
            self.failed_units()?.iter().for_each(|unit| text += &format!("{unit}\n"));
        }
        Ok(text)
    }

    /// Names of the units that have failed.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn failed_units(&mut self) -> io::Result<Vec<String>> {
        let mut body = Body::default();
        body.strings(&["failed"]);
        let reply = self.call(MANAGER, "ListUnitsFiltered", "as", &body.0)?;
        failed_units(&reply)
    }

    /// Waits until a unit is active, or has failed: woken by the manager's signals.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn wait_for_unit(&mut self, name: &str) -> io::Result<UnitEnd> {
        self.subscribe()?;
        loop {
            // Signals that came before this answer are older than it, and passed over with it.
            match &self.unit(name)?.active[..] {
                "active" => return Ok(UnitEnd::Active),
                "failed" => return Ok(UnitEnd::Failed),
                _ => self.hear()?,
            }
        }
    }

    /// All units that are loaded.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn units(&mut self) -> io::Result<Vec<Unit>> {
        units(&self.call(MANAGER, "ListUnits", "", &[])?)
    }

    /// One unit, whether it is loaded or not: then its load state tells.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn unit(&mut self, name: &str) -> io::Result<Unit> {
        let mut body = Body::default();
        body.strings(&[name]);
        let reply = self.call(MANAGER, "ListUnitsByNames", "as", &body.0)?;
        units(&reply)?.pop().ok_or_else(|| nonsense("it knows nothing of the unit"))
    }

    /// Asks for signals about units and jobs, which [`Bus::hear`] then gets.
    ///
    /// # Errors
    /// As [`Bus::system_state`].
    pub fn subscribe(&mut self) -> io::Result<()> {
        self.call(MANAGER, "Subscribe", "", &[]).map(drop)
    }

    /// Reads one message, whatever it says: something has changed.
    ///
    /// # Errors
    /// Where the connection is over.
    pub fn hear(&mut self) -> io::Result<()> {
        self.receive()?;
        self.heard += 1;
        Ok(())
    }

    /// How many signals have come, those among answers too.
    pub fn heard(&self) -> u64 {
        self.heard
    }

    /// To wait for something to hear.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    fn call(
        &mut self,
        interface: &str,
        member: &str,
        signature: &str,
        body: &[u8],
    ) -> io::Result<Vec<u8>> {
        self.serial += 1;
        self.stream.write_all(&message(self.serial, interface, member, signature, body))?;
        loop {
            let (kind, reply_to, body) = self.receive()?;
            match (kind, reply_to == self.serial) {
                (METHOD_RETURN, true) => return Ok(body),
                (ERROR, true) => {
                    let said = Reader::new(&body).string().unwrap_or_default();
                    return Err(io::Error::other(format!("it answers with an error: {said}")));
                }
                _ => self.heard += 1,
            }
        }
    }

    fn receive(&mut self) -> io::Result<(u8, u32, Vec<u8>)> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if head[0] != b'l' {
            return Err(nonsense("its byte order is not this machine's"));
        }
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        if body > MAX_MESSAGE || fields > MAX_MESSAGE {
            return Err(nonsense("its message is too long"));
        }
        let mut header = vec![0; fields.next_multiple_of(8)];
        self.stream.read_exact(&mut header)?;
        let mut content = vec![0; body];
        self.stream.read_exact(&mut content)?;
        Ok((head[1], reply_serial(&header[..fields])?, content))
    }
}

const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;

const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How waiting for a unit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitEnd {
    /// It is active.
    Active,
    /// It has failed.
    Failed,
}

/// What systemd says of a unit (org.freedesktop.systemd1(5), `ListUnits`).
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Unit {
    /// Its full name.
    pub name: String,
    /// `loaded`, `not-found`, `masked` …
    pub load: String,
    /// `active`, `activating`, `failed` …
    pub active: String,
    /// What that means for its kind of unit, such as `running`, `exited`, `start`, `auto-restart`.
    pub sub: String,
    /// Kind of the job that is under way for it; empty where none is.
    pub job: String,
}

/// Names of the units in an answer to `ListUnitsFiltered`.
///
/// # Errors
/// Where it is something else.
pub fn failed_units(body: &[u8]) -> io::Result<Vec<String>> {
    Ok(units(body)?.into_iter().map(|unit| unit.name).collect())
}

/// The body of an answer to `ListUnits` and its kin: `a(ssssssouso)`.
fn units(body: &[u8]) -> io::Result<Vec<Unit>> {
    let mut reader = Reader::new(body);
    let length = reader.number()? as usize;
    reader.align(8)?;
    let end = reader.at.checked_add(length).filter(|&end| end <= body.len());
    let end = end.ok_or_else(|| nonsense("its list is cut off"))?;
    let mut units = Vec::new();
    while reader.at < end {
        reader.align(8)?;
        let name = reader.string()?;
        let _description = reader.string()?;
        let (load, active, sub) = (reader.string()?, reader.string()?, reader.string()?);
        let (_following, _path) = (reader.string()?, reader.string()?);
        let has_job = reader.number()? != 0;
        let (job, _job_path) = (reader.string()?, reader.string()?);
        let job = if has_job { job } else { String::new() };
        units.push(Unit { name, load, active, sub, job });
    }
    Ok(units)
}

/// A method call on systemd's one object.
fn message(serial: u32, interface: &str, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut fields = Body::default();
    for (code, kind, value) in [
        (1, "o", "/org/freedesktop/systemd1"),
        (2, "s", interface),
        (3, "s", member),
        (6, "s", "org.freedesktop.systemd1"),
    ] {
        fields.align(8);
        fields.0.push(code);
        fields.signature(kind);
        fields.string(value);
    }
    if !signature.is_empty() {
        fields.align(8);
        fields.0.push(8);
        fields.signature("g");
        fields.signature(signature);
    }
    let mut message = Body(vec![b'l', 1, 0, 1]);
    message.number(body.len() as u32);
    message.number(serial);
    message.number(fields.0.len() as u32);
    message.0.extend(&fields.0);
    message.align(8);
    message.0.extend(body);
    message.0
}

/// The field `REPLY_SERIAL` of a header; 0 where there is none.
fn reply_serial(fields: &[u8]) -> io::Result<u32> {
    let mut reader = Reader::new(fields);
    while reader.at < fields.len() {
        reader.align(8)?;
        let code = reader.byte()?;
        match &reader.signature()?[..] {
            "u" => {
                let value = reader.number()?;
                if code == 5 {
                    return Ok(value);
                }
            }
            "s" | "o" => drop(reader.string()?),
            "g" => drop(reader.signature()?),
            _ => return Err(nonsense("its header has an unknown field")),
        }
    }
    Ok(0)
}

/// Marshalled values, little-endian.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn strings(&mut self, list: &[&str]) {
        let mut items = Self::default();
        list.iter().for_each(|text| items.string(text));
        self.number(items.0.len() as u32);
        self.0.extend(&items.0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| nonsense("its message is cut off"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> io::Result<()> {
        let padding = self.at.next_multiple_of(to) - self.at;
        self.take(padding).map(drop)
    }

    fn byte(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> io::Result<u32> {
        self.align(4)?;
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn string(&mut self) -> io::Result<String> {
        let length = self.number()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = self.byte()? as usize;
        self.text(length)
    }

    fn text(&mut self, length: usize) -> io::Result<String> {
        let bytes = self.take(length)?.to_vec();
        self.take(1)?;
        String::from_utf8(bytes).map_err(|_| nonsense("its text is not UTF-8"))
    }
}

fn nonsense(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One answer after the greeting; what is asked is swallowed.
    struct Peer(io::Cursor<Vec<u8>>);

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(kind: u8, serial: u32, body: &[u8]) -> Vec<u8> {
        let mut fields = Body(vec![5]);
        fields.signature("u");
        fields.number(serial);
        let mut message = Body(vec![b'l', kind, 0, 1]);
        message.number(body.len() as u32);
        message.number(77);
        message.number(fields.0.len() as u32);
        message.0.extend(&fields.0);
        message.align(8);
        message.0.extend(body);
        message.0
    }

    fn bus(said: &[&[u8]]) -> io::Result<Bus<Peer>> {
        Bus::connect(Peer(io::Cursor::new([b"OK 1234\r\n", &said.concat()[..]].concat())))
    }

    #[test]
    fn a_state_is_read_past_signals() {
        let mut body = Body::default();
        body.signature("s");
        body.string("running");
        let signal = answer(4, 0, b"xyz");
        let mut bus = bus(&[&signal, &answer(METHOD_RETURN, 1, &body.0)]).unwrap();
        assert_eq!(bus.system_state().unwrap(), "running");
        assert_eq!(bus.heard(), 1);
    }

    #[test]
    fn watchdogs_are_a_truth_value() {
        let mut body = Body::default();
        body.signature("b");
        body.number(1);
        assert!(bus(&[&answer(METHOD_RETURN, 1, &body.0)]).unwrap().watchdogs().unwrap());
        assert!(bus(&[&answer(METHOD_RETURN, 1, b"\x01s\0")]).unwrap().watchdogs().is_err());
    }

    #[test]
    fn units_are_the_first_texts() {
        let mut items = Body::default();
        for name in ["a.service", "b.mount"] {
            items.align(8);
            items.string(name);
            (0..6).for_each(|_| items.string("x"));
            items.number(0);
            (0..2).for_each(|_| items.string("/"));
        }
        let mut body = Body::default();
        body.number(items.0.len() as u32);
        body.align(8);
        body.0.extend(&items.0);
        assert_eq!(failed_units(&body.0).unwrap(), ["a.service", "b.mount"]);
        for cut in 0..body.0.len() {
            assert!(failed_units(&body.0[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        assert!(Bus::connect(Peer(io::Cursor::new(b"REJECTED\r\n".to_vec()))).is_err());
        assert!(bus(&[&answer(ERROR, 1, b"")]).unwrap().system_state().is_err());
        let mut long = answer(METHOD_RETURN, 1, b"");
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(bus(&[&long]).unwrap().system_state().is_err());
    }

    #[test]
    fn a_call_is_aligned() {
        let call = message(1, "a.b", "C", "ss", b"12345678");
        assert_eq!((call.len() - 8) % 8, 0);
        assert!(call.ends_with(b"12345678"));
    }
}
