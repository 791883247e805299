//! `--cache`: which image a cell is about, so that it is known whether it is the same.

use anyhow::Result;
use harness::probe::remembered::Remembered;
use harness::probe::{Cell, Wish};
use spec::platform::Platform;
use store::Store;

use crate::face::postroj::{Here, reference};

pub(super) struct Cache {
    remembered: Remembered,
    store: Store,
}

impl Cache {
    pub(super) fn open(here: &Here) -> Result<Self> {
        let directory = here.places()?.store.join("probes").join("passed");
        Ok(Self { remembered: Remembered::open(&directory)?, store: here.store()? })
    }

    /// Cells that need not be probed.
    pub(super) fn known(&self, wishes: &[Wish]) -> Vec<Cell> {
        let find = |wish: &Wish| self.remembered.find(wish, &self.image(wish)?);
        wishes.iter().filter_map(find).collect()
    }

    /// Remembers what was probed now.
    pub(super) fn keep(&self, cells: &[Cell], known: &[Cell]) {
        for cell in cells.iter().filter(|cell| !known.contains(cell)) {
            if let Some(image) = self.image(&cell.wish) {
                self.remembered.keep(cell, &image);
            }
        }
    }

    /// The id of the image that is in the store; where none is, nothing is known.
    fn image(&self, wish: &Wish) -> Option<String> {
        let named = |name: &str| match wish.platform() {
            Some(platform) => {
                let name = harness::name_for(name, &Platform::parse(platform).ok()?);
                self.store.find(&name).ok()?
            }
            None => self.store.find(name).ok()?,
        };
        let full = || named(&reference::parse(&wish.image).ok()?.to_string());
        Some(named(&wish.image).or_else(full)?.id)
    }
}
