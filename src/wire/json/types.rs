//! Building blocks of bodies besides derived structs: bounded lists and maps, maps in order of
//! arrival, keys that are objects, and elements that may be invalid.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::wire::json::de::{ELEMENT, ELEMENTS_MAX};
use crate::wire::json::ser::push;

/// Maximum number of elements of all lists and maps with this bound in one body.
pub trait Limit {
    /// Name of the elements, for the refusal.
    const WHAT: &'static str;
    const COUNT_MAX: usize;
}

/// The default bound.
#[derive(Debug)]
pub struct Elements;

impl Limit for Elements {
    const WHAT: &'static str = "elements";
    const COUNT_MAX: usize = ELEMENTS_MAX;
}

/// A list with a bound.
#[derive(Debug)]
pub struct List<T, L = Elements>(pub Vec<T>, PhantomData<L>);

/// An object with arbitrary keys, as a list in order of arrival.
#[derive(Debug)]
pub struct Entries<K, V, L = Elements>(pub Vec<(K, V)>, PhantomData<L>);

impl<T, L> Default for List<T, L> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<K, V, L> Default for Entries<K, V, L> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<T, L> FromIterator<T> for List<T, L> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect(), PhantomData)
    }
}

impl<K, V, L> FromIterator<(K, V)> for Entries<K, V, L> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(entries.into_iter().collect(), PhantomData)
    }
}

impl<T: Serialize, L> Serialize for List<T, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.0)
    }
}

impl<K: Serialize, V: Serialize, L> Serialize for Entries<K, V, L> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, T: Deserialize<'de>, L: Limit> Deserialize<'de> for List<T, L> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple_struct(L::WHAT, L::COUNT_MAX, ListVisitor(PhantomData))
    }
}

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>, L: Limit> Deserialize<'de>
    for Entries<K, V, L>
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_tuple_struct(L::WHAT, L::COUNT_MAX, EntriesVisitor(PhantomData))
    }
}

struct ListVisitor<T, L>(PhantomData<(T, L)>);

impl<'de, T: Deserialize<'de>, L> Visitor<'de> for ListVisitor<T, L> {
    type Value = List<T, L>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(List::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = List::default();
        while let Some(element) = elements.next_element()? {
            list.0.push(element);
        }
        Ok(list)
    }
}

struct EntriesVisitor<K, V, L>(PhantomData<(K, V, L)>);

impl<'de, K: Deserialize<'de>, V: Deserialize<'de>, L> Visitor<'de> for EntriesVisitor<K, V, L> {
    type Value = Entries<K, V, L>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Entries::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut entries = Entries::default();
        while let Some(entry) = members.next_entry()? {
            entries.0.push(entry);
        }
        Ok(entries)
    }
}

/// A key that is an object: `{{"queueId":0}:1}`, as fastjson writes maps keyed by queues.
#[derive(Debug)]
pub struct ObjectKey<T>(pub T);

impl<T: Serialize> Serialize for ObjectKey<T> {
    /// Encoded as its JSON text, which the key writer recognizes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = Vec::new();
        push(&mut text, &self.0);
        serializer.serialize_str(str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for ObjectKey<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

/// An element of a list that may be invalid without making the list invalid.
#[derive(Debug)]
pub enum Element<T> {
    Good(T),
    /// Skipped; the string says why it is invalid.
    Bad(String),
}

impl<T: Serialize> Serialize for Element<T> {
    /// An invalid element is encoded as null.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Good(element) => element.serialize(serializer),
            Self::Bad(_) => serializer.serialize_unit(),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Element<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(ELEMENT, ElementVisitor(PhantomData))
    }
}

struct ElementVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ElementVisitor<T> {
    type Value = Element<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an element")
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        element: D,
    ) -> Result<Element<T>, D::Error> {
        Ok(match T::deserialize(element) {
            Ok(element) => Element::Good(element),
            Err(error) => Element::Bad(error.to_string()),
        })
    }
}
