//! Compares user-visible text with files in `tests/golden`: to change such a file is to change the
//! product.

use std::path::Path;
use std::{env, fs};

/// If the environment has `UPDATE_GOLDEN`, writes the file instead.
pub fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}");
}
