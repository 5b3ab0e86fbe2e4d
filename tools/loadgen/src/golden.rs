//! Texts that are compared whole with files in `tests/golden`: changing one is changing the product.

use std::path::Path;
use std::{env, fs};

/// With the environment's `UPDATE_GOLDEN` the file is written instead.
pub fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap(), "{name}");
}
