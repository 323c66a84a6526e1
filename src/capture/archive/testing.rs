//! Access to the recorded nodes in `tests/nodes`, for unit tests.

use std::path::Path;

use super::load;
use crate::capture::Capture;
use crate::facts::Reading;

/// A recorded node's response to a request.
pub fn recorded_answer(node: &str, request: &str) -> &'static [u8] {
    let capture = recorded_node(node);
    let Some(Reading::Ok(bytes)) = capture.answers.get(request) else { panic!("{node} does not answer {request}") };
    bytes.clone().leak()
}

/// Names of all recorded nodes.
pub fn recorded_nodes() -> Vec<String> {
    let nodes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes");
    let files = nodes.read_dir().expect("a directory").map(|entry| entry.expect("an entry").path());
    let archives = files.filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    let mut names: Vec<String> = archives.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// The capture of a recorded node.
pub fn recorded_node(name: &str) -> Capture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/nodes/{name}.txt"));
    load(&path).unwrap_or_else(|error| panic!("{error}"))
}
