//! Attributes with a list of elements.

use super::block::BlockLayout;
use super::value::{AttributeValue, Emit};
use super::writer::MessageWriter;
use crate::netfilter::{Error, Result};

/// `NFTA_LIST_ELEM`; other lists use the same number for their elements.
pub const NFTA_LIST_ELEM: u16 = 1;

/// A list with one attribute per element.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttributeList<'a, T> {
    /// The elements.
    pub elements: Vec<T>,
    /// Everything but the elements.
    pub layout: BlockLayout<'a>,
}

impl<T> Default for AttributeList<'_, T> {
    fn default() -> Self {
        Vec::new().into()
    }
}

impl<T> From<Vec<T>> for AttributeList<'_, T> {
    fn from(elements: Vec<T>) -> Self {
        Self { elements, layout: BlockLayout::default() }
    }
}

impl<'a, T: AttributeValue<'a>> AttributeValue<'a> for AttributeList<'a, T> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut list = Self::default();
        for (place, attribute) in super::attributes(bytes, "list").enumerate() {
            let attribute = attribute?;
            if attribute.kind == NFTA_LIST_ELEM {
                let within = |error: Error| error.within(format_args!("element {}", place + 1));
                list.layout.known::<T>(&attribute);
                list.elements.push(T::parse(attribute.body).map_err(within)?);
            } else {
                list.layout.keep_unknown(place, &attribute);
            }
        }
        Ok(list)
    }
}

impl<T: Emit> Emit for AttributeList<'_, T> {
    const NESTED: bool = true;

    fn emit(&self, out: &mut MessageWriter) {
        let mut block = self.layout.begin(out);
        self.elements.iter().for_each(|element| block.put(NFTA_LIST_ELEM, element));
        block.end();
    }

    fn has_unknown(&self) -> bool {
        self.layout.has_unknown() || self.elements.iter().any(Emit::has_unknown)
    }
}
