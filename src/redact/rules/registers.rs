//! Constants and map data in registers, and what they are used as.

use super::{Found, Visiting};
use crate::netfilter::nftables::register::{Cell, Load, Source};
use crate::netfilter::nftables::uapi::NFT_REG_VERDICT;
use crate::redact::labels::{self, Label};

impl Visiting<'_> {
    /// The constant of this length in a register. One that is composed or modified is zeroed, and the register is
    /// invalidated.
    pub(super) fn constant_in(&self, register: &mut u32, length: usize) -> Option<Found> {
        let expression = |cell: &Cell| {
            self.machine.load_of(cell).filter(|load| load.source == Source::Constant).map(|load| load.expression)
        };
        let cells = self.machine.at(*register, length).unwrap_or_default();
        let (number, first) = cells.iter().find_map(|cell| Some((expression(cell)?, cells[0].byte)))?;
        let value = self.constants.get(&number).and_then(|constant| constant.original.get(first..first + length));
        let unchanged = |(at, cell): (usize, &Cell)| {
            (expression(cell), cell.byte, cell.computed) == (Some(number), first + at, 0)
                && value.is_some_and(|value| value[at] == cell.xor)
        };
        match value.filter(|_| cells.iter().enumerate().all(unchanged)) {
            Some(value) => Some(Found { expression: number, first, value: value.to_vec() }),
            None => {
                *register = NFT_REG_VERDICT;
                None
            }
        }
    }

    /// Labels of the bytes from a register on.
    pub(super) fn labels(&self, register: u32) -> Vec<Label> {
        let known = |load: &Load| self.redactor.data.get(self.sets.get(&load.expression)?)?.labels();
        labels::labels(&self.machine, register, |load, byte| match known(load).and_then(|labels| labels.get(byte)) {
            None | Some(Label::Padding) => Label::Unclear, // no rule shows it
            Some(label) => *label,
        })
    }

    /// Records a use of map data in a register. If other rules use the map differently, its data are zeroed and the
    /// register is invalidated; so is a register that holds other data as well. `false`: no map data.
    pub(super) fn is_from_map(&mut self, register: &mut u32, labels: &[Label]) -> bool {
        let cells = self.machine.at(*register, labels.len()).unwrap_or_default();
        let mut loads = cells.iter().filter_map(|cell| self.machine.load_of(cell));
        let Some(load) = loads.find(|load| load.source == Source::Map) else { return false };
        let set = self.sets.get(&load.expression).filter(|_| cells.iter().all(|cell| cells[0].load == cell.load));
        let Some(set) = set else {
            *register = NFT_REG_VERDICT;
            return true;
        };
        let data = self.redactor.data.entry(set.clone()).or_default();
        for (cell, label) in cells.iter().zip(labels) {
            let unchanged = (cell.and, cell.xor, cell.computed) == (0xff, 0, 0);
            let stays = *label == Label::Plain && cell.computed == 0 || unchanged;
            data.add(cell.byte, if stays { *label } else { Label::Unclear });
        }
        if data.labels().is_none() {
            *register = NFT_REG_VERDICT;
        }
        true
    }

    /// Replaces a constant by the value in `found`.
    pub(super) fn becomes(&mut self, found: Found) {
        let Some(constant) = self.constants.get_mut(&found.expression) else { return };
        constant.users.push(self.at);
        for (place, byte) in constant.becomes.iter_mut().skip(found.first).zip(found.value) {
            constant.clash |= place.replace(byte).is_some_and(|other| other != byte);
        }
    }

    /// Replaces a constant by the mapped address.
    pub(super) fn becomes_address(&mut self, found: Option<Found>) {
        if let Some(mut found) = found {
            self.redactor.address(&mut found.value, None);
            self.becomes(found);
        }
    }
}
