//! Index files that were rebuilt in memory and are not on disk yet. Bounded: above [`SIZE_MAX`]
//! another rebuild waits until maintenance has written an image. If none can be written, because
//! the disk refuses or the segments cannot be read completely, the rebuild fails, and so does the
//! lookup.

use std::rc::Rc;

use rustc_hash::FxHashMap;

use crate::model::LogOffset;

/// Size of all images above which no further one is built, bytes. The index of a full segment of
/// small messages takes about 40 MB.
const SIZE_MAX: usize = 128 << 20;

/// An index file that was rebuilt from its segment, as bytes.
#[derive(Clone)]
pub struct Image {
    pub bytes: Rc<Vec<u8>>,
    /// Whether all of the segment could be read. If not, the file is not written, because more may
    /// be readable later.
    pub is_final: bool,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} bytes, final: {})", self.bytes.len(), self.is_final)
    }
}

/// Whether another image may be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageRoom {
    Free,
    /// Once maintenance has written an existing one.
    Later,
    /// None of the existing ones can be written.
    None,
}

/// Invariant: `size` is the sum over `images`.
#[derive(Debug, Default)]
pub struct Images {
    images: FxHashMap<LogOffset, Image>,
    size: usize,
    /// The last attempt to write one has failed.
    has_failed: bool,
}

impl Images {
    pub fn find(&self, segment: LogOffset) -> Option<&Image> {
        self.images.get(&segment)
    }

    pub fn insert(&mut self, segment: LogOffset, image: Image) {
        self.remove(segment);
        self.size += image.bytes.len();
        self.images.insert(segment, image);
    }

    pub fn remove(&mut self, segment: LogOffset) {
        if let Some(image) = self.images.remove(&segment) {
            self.size -= image.bytes.len();
        }
    }

    /// Drops the images of segments below `begin`, where the log begins now.
    pub fn drop_before(&mut self, begin: LogOffset) {
        self.images.retain(|&segment, _| segment >= begin);
        self.size = self.images.values().map(|image| image.bytes.len()).sum();
    }

    /// An image to write.
    pub fn unwritten(&self) -> Option<(LogOffset, Image)> {
        let mut finals = self.images.iter().filter(|(_, image)| image.is_final);
        finals.next().map(|(&segment, image)| (segment, image.clone()))
    }

    /// Records the end of an attempt to write an image.
    pub fn handle_written(&mut self, segment: LogOffset, is_written: bool) {
        self.has_failed = !is_written;
        if is_written {
            self.remove(segment);
        }
    }

    pub fn room(&self) -> ImageRoom {
        match self.size < SIZE_MAX {
            true => ImageRoom::Free,
            false if self.has_failed || self.unwritten().is_none() => ImageRoom::None,
            false => ImageRoom::Later,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(size: usize, is_final: bool) -> Image {
        Image { bytes: Rc::new(vec![0; size]), is_final }
    }

    #[test]
    fn above_the_bound_another_waits_for_one_to_be_written() {
        let mut images = Images::default();
        images.insert(LogOffset(0), image(SIZE_MAX - 1, true));
        assert_eq!(images.room(), ImageRoom::Free);
        images.insert(LogOffset(4096), image(1, true));
        assert_eq!(images.room(), ImageRoom::Later);
        let (segment, _) = images.unwritten().unwrap();
        images.handle_written(segment, true);
        assert_eq!(images.room(), ImageRoom::Free);
    }

    #[test]
    fn nothing_waits_for_an_image_that_cannot_be_written() {
        let mut images = Images::default();
        images.insert(LogOffset(0), image(SIZE_MAX, true));
        images.handle_written(LogOffset(0), false);
        assert_eq!(images.room(), ImageRoom::None);
        images.handle_written(LogOffset(0), true);
        images.insert(LogOffset(0), image(SIZE_MAX, false));
        assert_eq!(images.room(), ImageRoom::None, "its segment cannot be read completely");
        images.drop_before(LogOffset(1));
        assert_eq!((images.room(), images.size), (ImageRoom::Free, 0));
    }

    #[test]
    fn a_rebuilt_image_counts_once() {
        let mut images = Images::default();
        for size in [10, 30, 20] {
            images.insert(LogOffset(8), image(size, true));
        }
        assert_eq!((images.size, images.find(LogOffset(8)).unwrap().bytes.len()), (20, 20));
    }
}
