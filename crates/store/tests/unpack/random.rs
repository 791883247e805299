//! Random archives: whatever they do, nothing outside changes and nothing panics.

use store::unpack::Style;

use crate::build::{Item, Tar, item};
use crate::place::Place;

/// A linear congruential generator (Knuth's MMIX constants): the same on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn path(&mut self, outside: &str) -> String {
        let parts = [
            "a",
            "b",
            "c",
            "a",
            "b",
            "l",
            ".",
            "..",
            "outside",
            "canary",
            "dir",
            "",
            ".wh.a",
            ".wh.l",
            ".wh..wh..opq",
            "proc",
            "self",
            "cwd",
        ];
        match self.below(12) {
            0 => format!("{outside}/{}", self.pick(&["canary", "dir", "dir/canary", "evil"])),
            1 => self
                .pick(&["../outside", "../outside/canary", "/", "..", "../../outside/dir", "."])
                .into(),
            _ => (0..=self.below(4)).map(|_| self.pick(&parts)).collect::<Vec<_>>().join("/"),
        }
    }

    fn item(&mut self, outside: &str) -> Item {
        let flag =
            [b'0', b'0', b'5', b'5', b'2', b'2', b'2', b'1', b'1', b'6', b'3'][self.below(11)];
        let mut item =
            item(flag, self.path(outside)).mode([0o777, 0o4755, 0, 0o555, 0o1777][self.below(5)]);
        if matches!(flag, b'1' | b'2') {
            item = item.link(self.path(outside));
        }
        if flag == b'0' {
            item = item.content("evil".repeat(self.below(300)));
        }
        if flag == b'3' {
            item = item.device(1, 3);
        }
        item
    }
}

#[test]
fn random_entries_change_nothing_outside() {
    let mut random = Random(20_240_229);
    let (mut done, mut refused) = (0, 0);
    for round in 0..400 {
        let place = Place::resolving(round % 3 == 0);
        let outside = place.outside_path();
        // An archive that is refused ends there, so each entry is an archive of its own.
        for _ in 0..30 {
            let mut tar = Tar::new();
            for _ in 0..=random.below(3) {
                tar = tar.add(random.item(&outside));
            }
            let style = [Style::Layer, Style::Plain, Style::Package][random.below(3)];
            match place.unpack(&tar.end(), style) {
                Ok(_) => done += 1,
                Err(_) => refused += 1,
            }
        }
        place.check_outside(&format!("round {round}"));
    }
    assert!(done > 3000 && refused > 1500, "the test tests little: {done} and {refused}");
}

#[test]
fn random_damage_is_survived() {
    let whole = Tar::new()
        .pax(
            b'x',
            &[
                ("path", b"d/long"),
                ("mtime", b"1.5"),
                ("SCHILY.xattr.user.x", b"y"),
                ("GNU.sparse.map", b"0,4"),
                ("GNU.sparse.size", b"100"),
            ],
        )
        .file("a", "text")
        .dir("d")
        .symlink("d/l", "../d")
        .hard_link("h", "d/long")
        .file("../outside/evil", "")
        .file(&"n".repeat(150), "long name")
        .add(item(b'6', "fifo"))
        .end();
    let mut random = Random(7);
    let mut survived = 0;
    for round in 0..2000 {
        let mut archive = whole.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(archive.len());
            // Mostly within the headers, and with the checksum put right, to get beyond it.
            archive[at] =
                [0, b'/', b'.', 0xff, 0x80, b'7', b'9', random.below(256) as u8][random.below(8)];
            let start = at / 512 * 512;
            if let Some(header) = archive.get_mut(start..start + 512)
                && header[257..262] == *b"ustar"
            {
                header[148..156].fill(b' ');
                let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
                header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if random.below(4) == 0 {
            archive.truncate(random.below(archive.len()));
        }
        let place = Place::new();
        let error = place.unpack(&archive, Style::Plain);
        place.check_outside(&format!("round {round}"));
        survived += u32::from(error.is_err());
    }
    assert!(survived > 500, "the test tests little: {survived}");
}
