//! What a row of the table is made of, and the handle that a sample is added by: it carries the labels' types, so that
//! neither a misspelt metric nor a label too few, too many or in another's place compiles.

use std::marker::PhantomData;

use crate::advisory::defects::{Basis, DefectState};
use crate::advisory::{Severity, State};
use crate::facts::netfilter::{Backend, Family, NatAction, Owner, PortRandomization};
use crate::facts::{
    Collector, Feature, FlowProtocol, FlowState, NetworkNamespace, Source, SourceState, TunnelKind, UdpChecksum,
};

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
}

impl MetricKind {
    /// The type's name in both exposition formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// One row of the table.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Full name, with unit and `_total`.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: MetricKind,
    /// Label names, in order.
    pub labels: &'static [&'static str],
    /// Unit that the name carries; empty where it counts things.
    pub unit: &'static str,
    /// The collectors that it belongs to: printed with any of them; always, if there are none.
    pub collectors: &'static [Collector],
    /// What it says and which kernel object says so.
    pub help: &'static str,
}

impl Metric {
    pub(super) const fn gauge(name: &'static str, collectors: &'static [Collector], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, labels: &[], unit: "", collectors, help }
    }

    pub(super) const fn counter(name: &'static str, collectors: &'static [Collector], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, labels: &[], unit: "", collectors, help }
    }

    /// The same with the unit that its name carries.
    pub(super) const fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

/// A row of the table whose samples have the labels `L`.
#[derive(Debug)]
pub(super) struct Handle<L> {
    /// Where it stands in the table.
    pub(super) position: usize,
    labels: PhantomData<L>,
}

impl<L> Clone for Handle<L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L> Copy for Handle<L> {}

impl<L> Handle<L> {
    pub(super) const fn new(position: usize) -> Self {
        Self { position, labels: PhantomData }
    }
}

/// The labels of a sample.
pub(super) trait Labels {
    /// Their names, in order.
    const NAMES: &'static [&'static str];

    /// Their values, in the same order.
    fn values(&self) -> impl Iterator<Item = &str>;
}

impl Labels for () {
    const NAMES: &'static [&'static str] = &[];

    fn values(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}

/// What can be the value of a label: a text, or a member of a closed set.
pub(super) trait LabelValue {
    fn text(&self) -> &str;
}

impl LabelValue for &str {
    fn text(&self) -> &str {
        self
    }
}

macro_rules! closed_sets {
    ($($set:ty)*) => { $(
        impl LabelValue for $set {
            fn text(&self) -> &str {
                self.name()
            }
        }
    )* };
}

closed_sets! {
    Backend Basis Collector DefectState Family Feature FlowProtocol FlowState NatAction NetworkNamespace Owner
    PortRandomization Severity Source SourceState State TunnelKind UdpChecksum
}

/// Declares the labels that samples have: a structure whose fields are the labels, in order.
macro_rules! label_sets {
    ($($name:ident $(<$life:lifetime>)? { $($label:ident: $value:ty),+ })+) => { $(
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name $(<$life>)? { $(pub(super) $label: $value),+ }

        impl $(<$life>)? Labels for $name $(<$life>)? {
            const NAMES: &'static [&'static str] = &[$(stringify!($label)),+];

            fn values(&self) -> impl Iterator<Item = &str> {
                [$(self.$label.text()),+].into_iter()
            }
        }
    )+ };
}

/// Declares the table: a handle, the labels of its samples, and the row.
macro_rules! metrics {
    ($($handle:ident($labels:ty): $row:expr;)+) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "they have the names of the handles")]
        enum Position { $($handle),+ }

        $(pub(super) const $handle: Handle<$labels> = Handle::new(Position::$handle as usize);)+

        /// Every metric, in the order of the output.
        pub static METRICS: &[Metric] = &[$(Metric { labels: <$labels as Labels>::NAMES, ..$row }),+];
    };
}

pub(super) use {label_sets, metrics};
