//! Small sets of named bits, as system calls have them.

/// A small set of named bits.
macro_rules! bitflags {
    ($(#[$doc:meta])* $name:ident: $type:ty { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name($type);
        #[allow(dead_code, reason = "not each is asked for its bits")]
        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*
            /// None of them.
            pub const NONE: Self = Self(0);
            /// Whether all bits of `other` are set.
            pub fn contains(self, other: Self) -> bool { self.0 & other.0 == other.0 }
            /// Its bits as the kernel has them.
            pub fn bits(self) -> $type { self.0 }
        }
        impl std::ops::BitOr for $name {
            type Output = Self;
            fn bitor(self, other: Self) -> Self { Self(self.0 | other.0) }
        }
        impl std::ops::BitOrAssign for $name {
            fn bitor_assign(&mut self, other: Self) { self.0 |= other.0 }
        }
    };
}
pub(crate) use bitflags;
