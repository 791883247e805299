//! The D-Bus of a machine's systemd, which may be anything: answers are read or refused, and
//! no more is kept than was sent.
#![no_main]

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzz_target;
use postroj_fuzz::bus::{self, Bus};

/// Says what the fuzzer likes, and swallows what it is asked.
struct Peer<'a>(&'a [u8]);

impl Read for Peer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Ok(mut bus) = Bus::connect(Peer(bytes)) {
        let state = bus.system_state().unwrap_or_default();
        let units = bus.failed_units().unwrap_or_default();
        let kept = state.len() + units.iter().map(String::len).sum::<usize>();
        assert!(kept <= bytes.len(), "{kept} bytes of {}", bytes.len());
    }
    if let Ok(units) = bus::failed_units(bytes) {
        assert!(units.iter().map(String::len).sum::<usize>() <= bytes.len());
    }
});
