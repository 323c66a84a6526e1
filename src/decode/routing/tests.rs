//! On captured bytes.
