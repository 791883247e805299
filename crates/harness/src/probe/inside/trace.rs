//! What happened while a server was asked: the attempts, what was said in the last one, and the packets of one
//! more, in the form that tcpdump and Wireshark read.

use std::fmt::Write as _;
use std::io::{Read, Result, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Of a check that failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// For people.
    pub text: String,
    /// None where the kernel shows nobody any.
    pub packets: Vec<Packet>,
}

/// A frame as it went over a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// Microseconds since the epoch.
    pub at: u64,
    /// In hex.
    pub frame: String,
}

impl Trace {
    /// A capture file (draft-ietf-opsawg-pcap, "General File Structure") of Ethernet frames, as loopback devices
    /// have them too.
    #[must_use]
    pub fn pcap(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(0xa1b2_c3d4u32.to_le_bytes());
        file.extend([2u16, 4].into_iter().flat_map(u16::to_le_bytes));
        file.extend([0u32, 0, u16::MAX.into(), ETHERNET].into_iter().flat_map(u32::to_le_bytes));
        for packet in &self.packets {
            let digits = packet.frame.as_bytes().chunks_exact(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            let frame: Vec<u8> = digits.filter_map(byte).collect();
            let (seconds, micros) = (packet.at / 1_000_000, packet.at % 1_000_000);
            let length = frame.len() as u32;
            let head = [seconds as u32, micros as u32, length, length];
            file.extend(head.into_iter().flat_map(u32::to_le_bytes));
            file.extend(frame);
        }
        file
    }
}

/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;

impl Packet {
    pub(super) fn now(frame: &[u8]) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let frame = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { at: since.as_micros() as u64, frame }
    }
}

/// Attempts, as they come.
pub(super) struct Log {
    begun: Instant,
    text: String,
    /// The last one, since when it was the same, and how often.
    last: Option<(String, Duration, u32)>,
    /// What was said in the last one.
    pub(super) said: Vec<u8>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), text: String::new(), last: None, said: Vec::new() }
    }

    /// Notes what came of one; the same again is only counted.
    pub(super) fn note(&mut self, what: String) {
        match &mut self.last {
            Some((last, _, count)) if *last == what => *count += 1,
            _ => {
                self.flush();
                self.last = Some((what, self.begun.elapsed(), 1));
            }
        }
    }

    fn flush(&mut self) {
        let Some((what, since, count)) = self.last.take() else { return };
        let _ = write!(self.text, "{:8.3} s  {what}", since.as_secs_f64());
        if count > 1 {
            let until = self.begun.elapsed().as_secs_f64();
            let _ = write!(self.text, " ({count} times, until {until:.3} s)");
        }
        self.text.push('\n');
    }

    /// All of it.
    pub(super) fn text(mut self) -> String {
        self.flush();
        if !self.said.is_empty() {
            self.text += "\nWhat was said last:\n";
            self.text += &String::from_utf8_lossy(&self.said).replace('\r', "");
            self.text.push('\n');
        }
        self.text
    }
}

/// A stream of which is kept what is said on it.
pub(super) struct Heard<'a, S> {
    stream: S,
    said: &'a mut Vec<u8>,
}

/// Bytes of a conversation that are kept.
const MOST: usize = 64 << 10;

impl<'a, S> Heard<'a, S> {
    /// What was said on another one before is forgotten.
    pub(super) fn new(stream: S, said: &'a mut Vec<u8>) -> Self {
        said.clear();
        Self { stream, said }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MOST.saturating_sub(self.said.len());
        self.said.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

impl<S: Read> Read for Heard<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.stream.read(buffer)?;
        self.keep(&buffer[..count]);
        Ok(count)
    }
}

impl<S: Write> Write for Heard<'_, S> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let count = self.stream.write(bytes)?;
        self.keep(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_again_is_counted() {
        let mut log = Log::new();
        for what in ["refused", "refused", "refused", "status 503"] {
            log.note(what.into());
        }
        let mut heard =
            Heard::new(std::io::Cursor::new(b"HTTP/1.1 503\r\n".to_vec()), &mut log.said);
        heard.read_to_end(&mut Vec::new()).unwrap();
        let text = log.text();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("refused (3 times, until "), "{text}");
        assert!(lines[1].ends_with(" s  status 503") && lines[4] == "HTTP/1.1 503", "{text}");
    }

    #[test]
    fn a_capture_has_its_frames() {
        let packet = Packet { at: 1_000_002, frame: "00ff10".into() };
        let file = Trace { text: String::new(), packets: vec![packet] }.pcap();
        assert_eq!(file.len(), 24 + 16 + 3);
        assert_eq!(&file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
        assert_eq!(&file[24..], [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, 0, 0xff, 0x10]);
    }
}
