//! `explain`: describes an advisory.

use super::print;
use crate::advisory::Catalogue;
use crate::report::text;

/// Runs `natwatch explain`: one advisory, or the list.
pub(super) fn run(id: Option<&str>) -> Result<(), String> {
    let catalogue = Catalogue::built_in();
    match id {
        None => print(&text::explain_all(catalogue)),
        Some(id) => match catalogue.get(id) {
            Some(advisory) => print(&text::explain(advisory)),
            None => Err(format!("no advisory is called {id:?}; `natwatch explain` lists them")),
        },
    }
}
