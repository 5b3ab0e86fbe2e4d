//! The lenient reader as a serde deserializer, so that a body is a derived struct.
//!
//! It accepts (remoting reference, 3.0): null for an absent member, so `#[serde(default)]` supplies
//! its value; null for an empty list or object; numbers and strings for each other; an enum as a
//! name or as the index of a variant; a string, a number, or an object as a key. A duplicate member
//! is an error.
//!
//! Invariants:
//! - Everything is bounded: the elements of all lists and maps are counted over the whole body,
//!   under the name of their bound ([`Limit`], or [`ELEMENTS_MAX`] for a plain `Vec`).
//! - Values nest at most [`DEPTH_MAX`] deep.
//! - Strings are copied: decoded values outlive the receive buffer.

use std::borrow::Cow;
use std::fmt::Display;

use serde::de::{
    self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use crate::model::excerpt;
use crate::model::refusal::Refusal;
use crate::wire::json::read::{JsonError, Reader};

/// Maximum nesting of values. Far beyond what clients send.
pub const DEPTH_MAX: usize = 64;
/// Maximum number of elements of all lists and maps of a body that have no bound of their own.
pub const ELEMENTS_MAX: usize = 100_000;
const ELEMENTS: &str = "elements";
/// Maximum length of a message about an invalid value, characters.
const MESSAGE_MAX: usize = 200;

/// Name of the newtype that [`crate::wire::json::types::Element`] requests: a value that is skipped
/// if it is invalid.
pub const ELEMENT: &str = "\u{0}element";

/// Why a body cannot be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("it is not UTF-8")]
    NotText,
    /// A bound was exceeded.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Decodes all of `body` as a `T`.
pub fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, BodyError> {
    let text = std::str::from_utf8(body).map_err(|_| BodyError::NotText)?;
    let mut state = State::default();
    let mut value = Value { reader: Reader::new(text), state: &mut state };
    let read = T::deserialize(&mut value).and_then(|read| {
        value.reader.expect_end()?;
        Ok(read)
    });
    match (read, state.exceeded) {
        (_, Some(refusal)) => Err(BodyError::Refused(refusal)),
        (read, None) => Ok(read.map_err(|error| error.or_at(0))?),
    }
}

impl de::Error for JsonError {
    fn custom<T: Display>(message: T) -> Self {
        // The caller knows the position.
        Self::new(excerpt(message, MESSAGE_MAX), usize::MAX)
    }
}

/// Counters over a whole body.
#[derive(Default)]
struct State {
    depth: usize,
    counts: Vec<(&'static str, usize)>,
    exceeded: Option<Refusal>,
}

impl State {
    /// Counts an element under the bound `count_max` named `what`.
    fn take(&mut self, (what, count_max): Bound, at: usize) -> Result<(), JsonError> {
        let index = self.counts.iter().position(|(name, _)| *name == what);
        let index = index.unwrap_or_else(|| {
            self.counts.push((what, 0));
            self.counts.len() - 1
        });
        let count = &mut self.counts[index].1;
        if *count == count_max {
            self.exceeded = Some(Refusal::TooMany { what, count_max });
            return Err(JsonError::new(format!("more than {count_max} {what}"), at));
        }
        *count += 1;
        Ok(())
    }
}

/// Name and size of a bound.
type Bound = (&'static str, usize);

/// The value that comes next.
struct Value<'a, 's> {
    reader: Reader<'a>,
    state: &'s mut State,
}

impl<'a> Value<'a, '_> {
    fn enter(&mut self, bracket: u8) -> Result<bool, JsonError> {
        if self.state.depth == DEPTH_MAX {
            return Err(self.reader.error("nested too deeply"));
        }
        let is_entered = self.reader.enter(bracket)?;
        self.state.depth += usize::from(is_entered);
        Ok(is_entered)
    }

    fn list<'de, V: Visitor<'de>>(
        &mut self,
        visitor: V,
        bound: Bound,
    ) -> Result<V::Value, JsonError> {
        let is_over = !self.enter(b'[')?;
        let members = Members { value: self, bound, bracket: b']', is_first: true, is_over };
        visitor.visit_seq(members).map_err(|error| error.or_at(self.reader.at()))
    }

    fn object<'de, V: Visitor<'de>>(
        &mut self,
        visitor: V,
        bound: Bound,
    ) -> Result<V::Value, JsonError> {
        let is_over = !self.enter(b'{')?;
        let members = Members { value: self, bound, bracket: b'}', is_first: true, is_over };
        visitor.visit_map(members).map_err(|error| error.or_at(self.reader.at()))
    }

    fn number<T: std::str::FromStr + Default>(&mut self) -> Result<T, JsonError> {
        Ok(self.reader.integer()?.unwrap_or_default())
    }

    fn text(&mut self) -> Result<Cow<'a, str>, JsonError> {
        Ok(self.reader.text()?.unwrap_or_default())
    }

    /// A value of unspecified type.
    fn scalar<'de, V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, JsonError> {
        let is_quoted = self.reader.peek()? == b'"';
        let Some(text) = self.reader.text()? else { return visitor.visit_unit() };
        if is_quoted {
            return visit_text(text, visitor);
        }
        match &*text {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            number => match (number.parse(), number.parse(), number.parse()) {
                (Ok(whole), ..) => visitor.visit_u64(whole),
                (_, Ok(whole), _) => visitor.visit_i64(whole),
                (.., Ok(fraction)) => visitor.visit_f64(fraction),
                _ => visitor.visit_str(number),
            },
        }
    }
}

fn visit_text<'de, V: Visitor<'de>>(text: Cow<'_, str>, visitor: V) -> Result<V::Value, JsonError> {
    match text {
        Cow::Borrowed(text) => visitor.visit_str(text),
        Cow::Owned(text) => visitor.visit_string(text),
    }
}

/// The variant with this name or index.
fn visit_variant<'de, V: Visitor<'de>>(
    text: &str,
    variants: &'static [&'static str],
    visitor: V,
) -> Result<V::Value, JsonError> {
    let by_place = text.parse::<usize>().ok().and_then(|place| variants.get(place));
    visitor.visit_enum(by_place.copied().unwrap_or(text).into_deserializer())
}

macro_rules! numbers {
    ($($method:ident $visit:ident;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
            visitor.$visit(self.number()?)
        })*
    };
}

impl<'de> Deserializer<'de> for &mut Value<'_, '_> {
    type Error = JsonError;

    numbers! {
        deserialize_i8 visit_i8;
        deserialize_i16 visit_i16;
        deserialize_i32 visit_i32;
        deserialize_i64 visit_i64;
        deserialize_u8 visit_u8;
        deserialize_u16 visit_u16;
        deserialize_u32 visit_u32;
        deserialize_u64 visit_u64;
        deserialize_f32 visit_f32;
        deserialize_f64 visit_f64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        match self.reader.peek()? {
            b'[' => self.list(visitor, (ELEMENTS, ELEMENTS_MAX)),
            b'{' => self.object(visitor, (ELEMENTS, ELEMENTS_MAX)),
            _ => self.scalar(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_bool(self.reader.boolean()?.unwrap_or(false))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visit_text(self.text()?, visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        if self.reader.take_null()? { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        if name != ELEMENT {
            return visitor.visit_newtype_struct(self);
        }
        // Skips it first, so that decoding continues after it even if it is invalid.
        let depth = self.state.depth;
        let text = self.reader.skip()?;
        let mut inner = Value { reader: Reader::new(text), state: &mut *self.state };
        let read = visitor.visit_newtype_struct(&mut inner)?;
        self.state.depth = depth;
        match self.state.exceeded {
            Some(_) => Err(self.reader.error("too many elements")),
            None => Ok(read),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.list(visitor, (ELEMENTS, ELEMENTS_MAX))
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.deserialize_seq(visitor)
    }

    /// A list or object of at most `len` elements named `name`, as the types in
    /// [`types`](crate::wire::json::types) request.
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        match self.reader.peek()? {
            b'[' => self.list(visitor, (name, len)),
            b'{' => self.object(visitor, (name, len)),
            _ => self.scalar(visitor),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.object(visitor, (ELEMENTS, ELEMENTS_MAX))
    }

    /// Unknown members are skipped, and the known ones have a fixed size, so nothing is counted.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        self.object(visitor, ("members", usize::MAX))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visit_variant(&self.text()?, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        self.reader.skip()?;
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct identifier }
}

/// The contents of an object or array.
struct Members<'v, 'a, 's> {
    value: &'v mut Value<'a, 's>,
    bound: Bound,
    /// The closing bracket.
    bracket: u8,
    is_first: bool,
    is_over: bool,
}

impl Members<'_, '_, '_> {
    /// Advances to the next element, if any.
    fn advance(&mut self) -> Result<bool, JsonError> {
        if self.is_over {
            return Ok(false);
        }
        if !self.value.reader.goes_on(self.bracket, self.is_first)? {
            self.is_over = true;
            self.value.state.depth -= 1;
            return Ok(false);
        }
        self.is_first = false;
        Ok(true)
    }

    fn count(&mut self) -> Result<(), JsonError> {
        self.value.state.take(self.bound, self.value.reader.at())
    }
}

impl<'de> SeqAccess<'de> for Members<'_, '_, '_> {
    type Error = JsonError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, JsonError> {
        if !self.advance()? {
            return Ok(None);
        }
        self.count()?;
        let read = seed.deserialize(&mut *self.value);
        read.map(Some).map_err(|error| error.or_at(self.value.reader.at()))
    }
}

impl<'de> MapAccess<'de> for Members<'_, '_, '_> {
    type Error = JsonError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, JsonError> {
        while self.advance()? {
            let text = self.value.reader.key()?;
            self.value.reader.expect(b':')?;
            if self.value.reader.take_null()? {
                continue;
            }
            self.count()?;
            let key = Key { text, state: &mut *self.value.state };
            let read =
                seed.deserialize(key).map_err(|error| error.or_at(self.value.reader.at()))?;
            return Ok(Some(read));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, JsonError> {
        let read = seed.deserialize(&mut *self.value);
        read.map_err(|error| error.or_at(self.value.reader.at()))
    }
}

/// A key: its text, or the JSON text of an object.
struct Key<'a, 's> {
    text: Cow<'a, str>,
    state: &'s mut State,
}

impl Key<'_, '_> {
    fn number<T: std::str::FromStr>(&self) -> Result<T, JsonError> {
        let wrong = || de::Error::custom(format_args!("key {:?} is not such a number", self.text));
        self.text.parse().map_err(|_| wrong())
    }
}

impl<'de> Deserializer<'de> for Key<'_, '_> {
    type Error = JsonError;

    numbers! {
        deserialize_i8 visit_i8;
        deserialize_i16 visit_i16;
        deserialize_i32 visit_i32;
        deserialize_i64 visit_i64;
        deserialize_u8 visit_u8;
        deserialize_u16 visit_u16;
        deserialize_u32 visit_u32;
        deserialize_u64 visit_u64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visit_text(self.text, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        let mut inner = Value { reader: Reader::new(&self.text), state: self.state };
        let read = inner.deserialize_struct(name, fields, visitor)?;
        inner.reader.expect_end()?;
        Ok(read)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, JsonError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, JsonError> {
        visit_variant(&self.text, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i128 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::wire::json::ser::push;
    use crate::wire::json::types::{Element, Entries, Limit, List, ObjectKey};

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    enum Kind {
        #[serde(rename = "FIRST_KIND")]
        First,
        #[serde(rename = "SECOND_KIND")]
        Second,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Record {
        the_text: String,
        #[serde(default)]
        number: i32,
        #[serde(default = "yes")]
        flag: bool,
        kind: Option<Kind>,
        #[serde(default)]
        list: Vec<u8>,
        #[serde(default)]
        table: BTreeMap<u64, String>,
    }

    fn yes() -> bool {
        true
    }

    fn record(text: &str) -> Record {
        let (list, table) = Default::default();
        Record { the_text: text.into(), number: 0, flag: true, kind: None, list, table }
    }

    #[test]
    fn bodies_are_read_tolerantly() {
        #[rustfmt::skip]
        let rows = [
            (r#"{"theText":"x"}"#, record("x")),
            (r#" { theText : "x" , "unknown" : [ {"a":{}} , 1 ] } "#, record("x")),
            (r#"{"theText":17,"number":"-4","flag":"false"}"#, Record { number: -4, flag: false, ..record("17") }),
            (r#"{"theText":"x","number":null,"flag":null,"kind":null,"list":null,"table":null}"#, record("x")),
            (r#"{"theText":"x","kind":"SECOND_KIND"}"#, Record { kind: Some(Kind::Second), ..record("x") }),
            (r#"{"theText":"x","kind":0}"#, Record { kind: Some(Kind::First), ..record("x") }),
            (r#"{"theText":"x","kind":"1"}"#, Record { kind: Some(Kind::Second), ..record("x") }),
            (r#"{"theText":"x","list":["1",2]}"#, Record { list: vec![1, 2], ..record("x") }),
            (r#"{"theText":"x","table":{0:"a","1":2}}"#,
                Record { table: [(0, "a".into()), (1, "2".into())].into(), ..record("x") }),
            (r#"{"theText":"\u4e3b\n"}"#, record("主\n")),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text.as_bytes()), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        #[rustfmt::skip]
        let rows = [
            ("", "truncated at byte 0"),
            ("[]", "expected '{' at byte 0"),
            ("{}", "missing field `theText` at byte 2"),
            (r#"{"theText":null}"#, "missing field `theText` at byte 16"),
            (r#"{"theText":"x"}x"#, "unexpected data after the end at byte 15"),
            (r#"{"theText":"x","number":1.5}"#, "\"1.5\" is not such a number at byte 24"),
            (r#"{"theText":"x","list":[256]}"#, "\"256\" is not such a number at byte 23"),
            (r#"{"theText":"x","kind":"THIRD"}"#, "unknown variant `THIRD`, expected `FIRST_KIND` or `SECOND_KIND` at byte 29"),
            (r#"{"theText":"x","theText":"y"}"#, "duplicate field `theText` at byte 25"),
            (r#"{"theText":"x","table":{"a":"b"}}"#, "key \"a\" is not such a number at byte 28"),
        ];
        for (text, expected) in rows {
            assert_eq!(
                parse::<Record>(text.as_bytes()).unwrap_err().to_string(),
                expected,
                "{text}"
            );
        }
        assert_eq!(parse::<Record>(b"\xff"), Err(BodyError::NotText));
    }

    #[derive(Debug)]
    struct Three;

    impl Limit for Three {
        const WHAT: &'static str = "things";
        const COUNT_MAX: usize = 3;
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Bounded {
        list: List<List<u8, Three>>,
        entries: Entries<String, u8, Three>,
        elements: List<Element<Record>, Three>,
    }

    /// Anywhere in the body, including inside a skipped element.
    #[test]
    fn a_bound_counts_over_the_whole_body() {
        let too_many = Refusal::TooMany { what: "things", count_max: 3 };
        let rows = [
            (r#"{"list":[[1,2],[3]]}"#, true),
            (r#"{"list":[[1,2],[3,4]]}"#, false),
            (r#"{"list":[[1,2]],"entries":{"a":1}}"#, true),
            (r#"{"list":[[1,2]],"entries":{"a":1,"b":2}}"#, false),
            (r#"{"entries":{"a":1,"a":1,"a":1,"a":1}}"#, false),
            (r#"{"elements":[1,2,3]}"#, true),
            (r#"{"elements":[1,2,3,4]}"#, false),
        ];
        for (text, fits) in rows {
            let read = parse::<Bounded>(text.as_bytes()).map(|_| ());
            let expected = if fits { Ok(()) } else { Err(BodyError::Refused(too_many.clone())) };
            assert_eq!(read, expected, "{text}");
        }
        let plain = format!("[{}]", vec!["1"; ELEMENTS_MAX + 1].join(","));
        let refusal = Refusal::TooMany { what: "elements", count_max: ELEMENTS_MAX };
        assert_eq!(parse::<Vec<u8>>(plain.as_bytes()), Err(BodyError::Refused(refusal)));
    }

    #[test]
    fn a_bad_element_is_passed_over_and_told() {
        let text = r#"{"elements":[{"theText":"x"},{"kind":{"a":[1]}},{"theText":"y"}]}"#;
        let read: Bounded = parse(text.as_bytes()).unwrap();
        let told: Vec<Result<&str, &str>> = read
            .elements
            .0
            .iter()
            .map(|element| match element {
                Element::Good(record) => Ok(record.the_text.as_str()),
                Element::Bad(why) => Err(why.as_str()),
            })
            .collect();
        assert_eq!(told, [Ok("x"), Err("expected a value at byte 8"), Ok("y")]);
    }

    #[test]
    fn nesting_has_a_bound() {
        for open in ["[", "{\"a\":", "{\"theText\":\"x\",\"unknown\":["] {
            let deep = open.repeat(100_000);
            assert!(parse::<serde_json::Value>(deep.as_bytes()).is_err());
            assert!(parse::<Record>(deep.as_bytes()).is_err());
        }
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<serde_json::Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(parse::<serde_json::Value>(nested(DEPTH_MAX + 1).as_bytes()).is_err());
    }

    #[test]
    fn what_is_written_is_compact_and_has_objects_as_keys() {
        #[derive(Serialize)]
        struct Place {
            name: &'static str,
            number: u32,
        }
        let mut out = Vec::new();
        let key = |name| ObjectKey(Place { name, number: 3 });
        let entries: Entries<_, _> =
            [(key("a\"\\{"), 1.0), (key("\u{1}"), 2.5)].into_iter().collect();
        push(&mut out, &entries);
        push(&mut out, &BTreeMap::from([("", 1), ("\"", 2), ("a{", 3)]));
        push(&mut out, &BTreeMap::from([(7u64, true)]));
        push(&mut out, &("主\n{", [(); 0]));
        let expected = concat!(
            r#"{{"name":"a\"\\{","number":3}:1.0,{"name":"\u0001","number":3}:2.5}"#,
            r#"{"":1,"\"":2,"a{":3}{"7":true}["主\n{",[]]"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    /// JSON that strict libraries decode the same way: without null members, and with integers
    /// only.
    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            any::<u64>().prop_map(serde_json::Value::from),
            "\\PC{0,8}".prop_map(serde_json::Value::from),
            "[\\x00-\\x1f\"\\\\]{0,4}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(6, 48, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[^{]{0,6}", inner, 0..6)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn strict_json_reads_as_serde_json_reads_it(value in json(), pretty in any::<bool>()) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&value).unwrap(),
                false => value.to_string(),
            };
            prop_assert_eq!(parse::<serde_json::Value>(text.as_bytes()), Ok(value.clone()));
            let mut out = Vec::new();
            push(&mut out, &value);
            prop_assert_eq!(String::from_utf8(out).unwrap(), value.to_string());
        }

        #[test]
        fn records_survive(text in "\\PC{0,8}", number in any::<i32>(), list in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            let record = Record { number, list, ..record(&text) };
            push(&mut out, &record);
            prop_assert_eq!(serde_json::from_slice::<Record>(&out).unwrap(), record.clone());
            prop_assert_eq!(parse(&out), Ok(record));
        }

        #[test]
        fn noise_never_panics(text in r#"[{}\[\]:,"\\a-cu0-9 é-]{0,60}"#) {
            let _ = parse::<Record>(text.as_bytes());
            let _ = parse::<Bounded>(text.as_bytes());
            let _ = parse::<serde_json::Value>(text.as_bytes());
            let inside = format!(r#"{{"elements":[{text}],"entries":{{{text}}}}}"#);
            let _ = parse::<Bounded>(inside.as_bytes());
        }
    }
}
