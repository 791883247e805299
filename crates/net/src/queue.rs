//! Queues of devices: how fast and how late packets leave (tc(8); linux/pkt_sched.h).

use std::io;

use crate::link::{Links, interface};
use crate::netlink::{ACK, Batch, CREATE, REPLACE};

const NEWQDISC: u16 = 36;
const DELQDISC: u16 = 37;
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const ROOT: u32 = u32::MAX;

/// What a queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Queue {
    /// Bytes a second; 0: all.
    pub(crate) rate: u32,
    /// Microseconds.
    pub(crate) delay: u64,
}

impl Links {
    /// Gives a device a queue, in the place of what it has.
    ///
    /// # Errors
    /// `ENOENT` where the kernel lacks that kind: tbf, or netem for delays.
    pub(crate) fn queue(&self, index: u32, queue: Queue) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(NEWQDISC, ACK | CREATE | REPLACE, &header(index));
        if queue.delay == 0 {
            tbf(&mut batch, queue.rate)
        } else {
            netem(&mut batch, queue)
        }
        self.carry_out(&batch)
    }

    /// Takes it away; that there is none is no error.
    ///
    /// # Errors
    /// rtnetlink(7)'s.
    pub(crate) fn unqueue(&self, index: u32) -> io::Result<()> {
        let mut batch = Batch::default();
        batch.message(DELQDISC, ACK, &header(index));
        match self.carry_out(&batch) {
            // The one that is always there cannot be removed.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput
                ) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// `struct tcmsg`: the queue of all that a device sends.
fn header(index: u32) -> [u8; 20] {
    let mut header = [0; 20];
    header[..8].copy_from_slice(&interface(index, 0)[..8]);
    header[12..16].copy_from_slice(&ROOT.to_ne_bytes());
    header
}

/// A token bucket (tc-tbf(8)): it may send a hundredth of a second's worth at once, and keeps a
/// twentieth waiting.
fn tbf(batch: &mut Batch, rate: u32) {
    const PARAMETERS: u16 = 1;
    const BURST: u16 = 6;
    const ETHERNET: u8 = 1;
    let burst = (rate / 100).max(16 << 10);
    let limit = burst.saturating_add(rate / 20);
    // `struct tc_tbf_qopt`: two of `tc_ratespec`, then limit, buffer and MTU. What is of the buffer
    // is in units of BURST instead.
    let mut parameters = [0; 36];
    parameters[1] = ETHERNET;
    parameters[8..12].copy_from_slice(&rate.to_ne_bytes());
    parameters[24..28].copy_from_slice(&limit.to_ne_bytes());
    batch.text(KIND, "tbf").nest(OPTIONS, |options| {
        options.attribute(PARAMETERS, &parameters).native(BURST, burst);
    });
}

/// tc-netem(8).
fn netem(batch: &mut Batch, queue: Queue) {
    const RATE: u16 = 6;
    const LATENCY64: u16 = 10;
    const PACKETS: u32 = 10_000;
    // `struct tc_netem_qopt`, of which only the second word is of use here: the limit.
    let mut options = vec![0; 24];
    options[4..8].copy_from_slice(&PACKETS.to_ne_bytes());
    let mut attribute = |kind: u16, value: &[u8]| {
        options.extend((4 + value.len() as u16).to_ne_bytes());
        options.extend(kind.to_ne_bytes());
        options.extend(value);
    };
    attribute(LATENCY64, &(queue.delay * 1000).to_ne_bytes());
    if queue.rate != 0 {
        // `struct tc_netem_rate`.
        attribute(RATE, &[queue.rate.to_ne_bytes(), [0; 4], [0; 4], [0; 4]].concat());
    }
    batch.text(KIND, "netem").attribute(OPTIONS, &options);
}
