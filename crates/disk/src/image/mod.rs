//! Files that hold a disk: what each format is recognised by, and how it is opened.
