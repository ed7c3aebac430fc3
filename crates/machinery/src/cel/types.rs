//! Types of expressions, as the checker sees them.

use super::{Shape, ShapeKind};
use std::fmt;
use std::rc::Rc;

/// A type. `Object` borrows from the schema that the variables are declared with.
#[derive(Clone)]
pub(super) enum Ty<'s> {
    Dyn,
    /// `bool`, `int`, `uint`, `double`, `string`, `bytes`, `null`, `type`, `duration`, `timestamp`, and the opaque types of
    /// libraries.
    Simple(&'static str),
    List(Rc<Ty<'s>>),
    Map(Rc<Ty<'s>>, Rc<Ty<'s>>),
    Optional(Rc<Ty<'s>>),
    Object(&'s dyn Shape),
    /// What is found below `variables`, by name.
    Composed(Rc<Vec<(String, Ty<'s>)>>),
    /// Of a signature.
    Param(u8),
}

pub(super) const BOOL: Ty<'static> = Ty::Simple("bool");
pub(super) const INT: Ty<'static> = Ty::Simple("int");
pub(super) const STRING: Ty<'static> = Ty::Simple("string");
pub(super) const AUTHORIZER: Ty<'static> = Ty::Simple("authorizer");
pub(super) const OBJECT: Ty<'static> = Ty::Simple("Object");
pub(super) const JSON_PATCH: Ty<'static> = Ty::Simple("JSONPatch");

impl<'s> Ty<'s> {
    /// The type of values of a schema.
    pub(super) fn of(shape: &'s dyn Shape) -> Self {
        match shape.kind() {
            ShapeKind::Bool => BOOL,
            ShapeKind::Int => INT,
            ShapeKind::Double => Self::Simple("double"),
            ShapeKind::String => STRING,
            ShapeKind::Bytes => Self::Simple("bytes"),
            ShapeKind::Duration => Self::Simple("duration"),
            ShapeKind::Timestamp => Self::Simple("timestamp"),
            ShapeKind::List => Self::List(Rc::new(shape.item().map_or(Self::Dyn, Self::of))),
            ShapeKind::Map => Self::Map(Rc::new(STRING), Rc::new(shape.item().map_or(Self::Dyn, Self::of))),
            ShapeKind::Object => Self::Object(shape),
            ShapeKind::Dyn => Self::Dyn,
        }
    }

    pub(super) fn is_dyn(&self) -> bool {
        matches!(self, Self::Dyn)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Self::Simple(own) if *own == name)
    }

    /// Whether a value of this type may stand where `wanted` is, which may hold parameters; they are bound in `bound`.
    pub(super) fn fits(&self, wanted: &Ty<'s>, bound: &mut [Option<Ty<'s>>; 4]) -> bool {
        match (self, wanted) {
            (own, Ty::Param(index)) => match bound[usize::from(*index)].clone() {
                None => {
                    bound[usize::from(*index)] = Some(own.clone());
                    true
                }
                Some(known) if known.is_dyn() => true,
                Some(known) => {
                    if own.is_dyn() {
                        bound[usize::from(*index)] = Some(Ty::Dyn);
                        return true;
                    }
                    // `null` and an object are of one type: the object's.
                    if known.is("null") && own.takes_null() {
                        bound[usize::from(*index)] = Some(own.clone());
                        return true;
                    }
                    own.fits(&known, &mut Default::default())
                }
            },
            (Ty::Dyn, _) | (_, Ty::Dyn) => true,
            (Ty::Simple("null"), wanted) if wanted.takes_null() => true,
            (Ty::Simple(own), Ty::Simple(wanted)) => own == wanted,
            (Ty::List(own), Ty::List(wanted)) | (Ty::Optional(own), Ty::Optional(wanted)) => own.fits(wanted, bound),
            (Ty::Map(key, value), Ty::Map(wanted_key, wanted_value)) => {
                key.fits(wanted_key, bound) && value.fits(wanted_value, bound)
            }
            // Schemas have no names: which object it is shows in its fields.
            (Ty::Object(_), Ty::Object(_)) => true,
            _ => false,
        }
    }

    fn takes_null(&self) -> bool {
        let scalar = ["bool", "int", "uint", "double", "string", "bytes", "type"];
        match self {
            Self::Simple(name) => !scalar.contains(name),
            Self::Object(_) | Self::Optional(_) | Self::Dyn => true,
            Self::List(_) | Self::Map(..) | Self::Composed(_) | Self::Param(_) => false,
        }
    }

    /// With parameters filled in; what nothing is known of is dyn.
    pub(super) fn bind(&self, bound: &[Option<Ty<'s>>; 4]) -> Ty<'s> {
        match self {
            Self::Param(index) => bound[usize::from(*index)].clone().unwrap_or(Self::Dyn),
            Self::List(item) => Self::List(Rc::new(item.bind(bound))),
            Self::Optional(item) => Self::Optional(Rc::new(item.bind(bound))),
            Self::Map(key, value) => Self::Map(Rc::new(key.bind(bound)), Rc::new(value.bind(bound))),
            other => other.clone(),
        }
    }

    /// The type of either.
    pub(super) fn join(self, other: Ty<'s>) -> Ty<'s> {
        let same = self.fits(&other, &mut Default::default()) && !self.is_dyn() && !other.is_dyn();
        match same {
            true if self.is("null") => other,
            true => self,
            false => Self::Dyn,
        }
    }
}

impl fmt::Display for Ty<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Simple("duration") => f.write_str("google.protobuf.Duration"),
            Self::Simple("timestamp") => f.write_str("google.protobuf.Timestamp"),
            Self::Simple(name) => f.write_str(name),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(item) => write!(f, "optional_type({item})"),
            Self::Object(_) => f.write_str("object"),
            Self::Composed(_) => f.write_str("kubernetes.variables"),
            Self::Param(index) => write!(f, "%{index}"),
        }
    }
}
