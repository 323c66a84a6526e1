//! Rows of the metric table, and typed handles for adding samples. A handle has the labels as types, so that a misspelt
//! metric, a missing label or labels in the wrong order do not compile.

use std::marker::PhantomData;

use crate::advisory::defects::{Basis, DefectState};
use crate::advisory::{Severity, State};
use crate::facts::netfilter::{Backend, Family, NatAction, Owner, PortRandomization};
use crate::facts::{
    Collector, Feature, FlowProtocol, FlowState, NetworkNamespace, Source, SourceState, TunnelKind, UdpChecksum,
};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// May go up and down.
    Gauge,
    /// Never decreases.
    Counter,
}

impl MetricKind {
    /// Name of the type, in both formats.
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
    /// Unit in the name, such as `seconds`; empty for a plain number.
    pub unit: &'static str,
    /// Collectors it belongs to; it is printed if any of them is enabled, or always if there are none.
    pub collectors: &'static [Collector],
    /// Help text: what it is, and the kernel object it is read from.
    pub help: &'static str,
}

impl Metric {
    /// A gauge without labels and unit.
    pub(super) const fn gauge(name: &'static str, collectors: &'static [Collector], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Gauge, labels: &[], unit: "", collectors, help }
    }

    /// A counter without labels and unit.
    pub(super) const fn counter(name: &'static str, collectors: &'static [Collector], help: &'static str) -> Self {
        Self { name, kind: MetricKind::Counter, labels: &[], unit: "", collectors, help }
    }

    /// Sets the unit, which the name must contain.
    pub(super) const fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }
}

/// A row of the table whose samples have labels `L`.
#[derive(Debug)]
pub(super) struct Handle<L> {
    /// Position in the table.
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
    /// For the row at this position.
    pub(super) const fn new(position: usize) -> Self {
        Self { position, labels: PhantomData }
    }
}

/// The labels of one sample.
pub(super) trait Labels {
    /// Label names, in order.
    const NAMES: &'static [&'static str];

    /// Label values, in the same order.
    fn values(&self) -> impl Iterator<Item = &str>;
}

impl Labels for () {
    const NAMES: &'static [&'static str] = &[];

    fn values(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}

/// Types of label values: a text, or a member of a closed set.
pub(super) trait LabelValue {
    /// The label value.
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

/// Declares label sets: structs whose fields are the labels, in order.
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

/// Declares the table; each line has a handle, the labels of its samples, and the row.
macro_rules! metrics {
    ($($handle:ident($labels:ty): $row:expr;)+) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms, reason = "they have the names of the handles")]
        enum Position { $($handle),+ }

        $(pub(super) const $handle: Handle<$labels> = Handle::new(Position::$handle as usize);)+

        /// All metrics, in output order.
        pub static METRICS: &[Metric] = &[$(Metric { labels: <$labels as Labels>::NAMES, ..$row }),+];
    };
}

pub(super) use {label_sets, metrics};
