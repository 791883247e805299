//! How fast the processor's counter counts.

/// Ticks of the time stamp counter in a millisecond, measured against the kernel's clock for twenty; `None`
/// where there is none that counts evenly (`constant_tsc`, Intel's manual, volume 3, 19.17.1).
#[must_use]
pub fn counter_khz() -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
        let flags = info.lines().find(|line| line.starts_with("flags"))?;
        if !flags.split_ascii_whitespace().any(|flag| flag == "constant_tsc") {
            return None;
        }
        let (ticks, nanoseconds) = (read(), now());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (ticks, nanoseconds) = (read().wrapping_sub(ticks), now().checked_sub(nanoseconds)?);
        let khz = u128::from(ticks) * 1_000_000 / u128::from(nanoseconds.max(1));
        u64::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
    }
    #[cfg(not(target_arch = "x86_64"))]
    None
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    // SAFETY: every processor of this architecture has the instruction, and it touches no memory.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(target_arch = "x86_64")]
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicRaw);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (Some(one), Some(two)) = (counter_khz(), counter_khz()) else {
            return eprintln!("skipped: this processor's counter does not count evenly");
        };
        assert!(one.abs_diff(two) < one / 20, "{one} {two}");
    }
}
