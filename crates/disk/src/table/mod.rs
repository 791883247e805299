//! Disks that are divided: partition tables and logical volumes.
