//! Devices' numbers, as file systems pack them.

/// Linux's `new_decode_dev` (include/linux/kdev_t.h).
pub(crate) fn new(packed: u32) -> (u32, u32) {
    ((packed & 0xf_ff00) >> 8, packed & 0xff | (packed >> 12) & 0xf_ff00)
}
