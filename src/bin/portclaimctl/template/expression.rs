//! What may stand in `{{ }}` and behind `@if` and `@isset`: ports of claims, and
//! conditions about which of them are set.

use portclaim::lease::{ClaimName, ParseNameError, Port};

/// The most claims in one condition: the engine joins them one inside the other.
const MAX_TERMS: usize = 64;
/// The most parentheses around one of them: the engine reads 150 levels, of which
/// one here takes up to six, and [`super::translation`] has the others.
const MAX_PARENTHESES: usize = 8;

/// What is wrong with an expression, or what is allowed instead of it.
#[derive(Debug, thiserror::Error)]
pub enum ExpressionError {
    /// Not the port of a claim.
    #[error(
        "$portClaims['NAME'] is allowed, with \"?? PORT\" behind it for where it is not set; \
         @{{{{ and @verbatim keep text as it is"
    )]
    Echo,
    /// Not a condition.
    #[error(
        "a condition of isset($portClaims['NAME']), \"!\", \"&&\", \"||\" and parentheses is allowed"
    )]
    Condition,
    /// Not the claims of an `@isset`.
    #[error("$portClaims['NAME'] is allowed, several with commas between them")]
    IsSet,
    /// A name that no claim can have.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// A default that is not a port.
    #[error("default {found:?} is not a number from 1 to 65535")]
    Default {
        /// The default.
        found: String,
    },
    /// A condition larger than the engine can hold.
    #[error("at most {MAX_TERMS} claims and {MAX_PARENTHESES} parentheses around one are allowed")]
    Large,
}

/// What `{{ }}` stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) claim: ClaimName,
    pub(super) default: Option<Port>,
}

/// A condition about which claims are set.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Condition {
    IsSet(ClaimName),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

impl Echo {
    /// Reads what stands between `{{` and `}}`.
    pub(super) fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut reader = Reader::new(text, || ExpressionError::Echo);
        let claim = reader.claim()?;
        let mut default = None;
        if reader.take("??") {
            let found = reader.rest.trim();
            let is_number = !found.is_empty() && found.bytes().all(|b| b.is_ascii_digit());
            let number = if is_number { found.parse().ok() } else { None };
            default = number.and_then(Port::new);
            if default.is_none() {
                return Err(ExpressionError::Default { found: found.chars().take(20).collect() });
            }
            reader.rest = "";
        }
        reader.end()?;
        Ok(Self { claim, default })
    }
}

impl Condition {
    /// Reads what stands between the parentheses of an `@if` or `@elseif`.
    pub(super) fn parse(text: &str) -> Result<Self, ExpressionError> {
        let mut reader = Reader::new(text, || ExpressionError::Condition);
        let condition = reader.any()?;
        reader.end()?;
        Ok(condition)
    }

    /// Reads what stands between the parentheses of an `@isset`.
    pub(super) fn parse_claims(text: &str) -> Result<Self, ExpressionError> {
        let mut reader = Reader::new(text, || ExpressionError::IsSet);
        let condition = reader.claims()?;
        reader.end()?;
        Ok(condition)
    }

    /// The same in the engine's words.
    pub(super) fn translation(&self) -> String {
        let joined = |parts: &[Self], with: &str| {
            format!("({})", parts.iter().map(Self::translation).collect::<Vec<_>>().join(with))
        };
        match self {
            Self::IsSet(claim) => format!("{:?} in claims", claim.as_str()),
            Self::Not(part) => format!("(not {})", part.translation()),
            Self::All(parts) => joined(parts, " and "),
            Self::Any(parts) => joined(parts, " or "),
        }
    }
}

/// Reads an expression from its beginning on, passing over blanks.
struct Reader<'t> {
    rest: &'t str,
    /// What is said where something else stands than may stand there.
    wrong: fn() -> ExpressionError,
    terms: usize,
    parentheses: usize,
}

impl<'t> Reader<'t> {
    fn new(rest: &'t str, wrong: fn() -> ExpressionError) -> Self {
        Self { rest, wrong, terms: 0, parentheses: 0 }
    }

    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_ascii_start().strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn need(&mut self, token: &str) -> Result<(), ExpressionError> {
        if self.take(token) { Ok(()) } else { Err((self.wrong)()) }
    }

    fn end(&self) -> Result<(), ExpressionError> {
        if self.rest.trim_ascii().is_empty() { Ok(()) } else { Err((self.wrong)()) }
    }

    fn claim(&mut self) -> Result<ClaimName, ExpressionError> {
        self.need("$portClaims")?;
        self.need("[")?;
        let quote = if self.take("'") { '\'' } else { '"' };
        if quote == '"' {
            self.need("\"")?;
        }
        let (name, rest) = self.rest.split_once(quote).ok_or_else(self.wrong)?;
        self.rest = rest;
        self.need("]")?;
        Ok(name.parse()?)
    }

    /// Claims with commas between them, as `isset` takes them: all are to be set.
    fn claims(&mut self) -> Result<Condition, ExpressionError> {
        let mut claims = Vec::new();
        loop {
            self.terms += 1;
            if self.terms > MAX_TERMS {
                return Err(ExpressionError::Large);
            }
            claims.push(Condition::IsSet(self.claim()?));
            if !self.take(",") {
                return Ok(one_or(claims, Condition::All));
            }
        }
    }

    fn any(&mut self) -> Result<Condition, ExpressionError> {
        let mut parts = vec![self.all()?];
        while self.take("||") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Condition::Any))
    }

    fn all(&mut self) -> Result<Condition, ExpressionError> {
        let mut parts = vec![self.term()?];
        while self.take("&&") {
            parts.push(self.term()?);
        }
        Ok(one_or(parts, Condition::All))
    }

    fn term(&mut self) -> Result<Condition, ExpressionError> {
        let mut is_negated = false;
        while self.take("!") {
            is_negated = !is_negated;
        }
        let condition = if self.take("isset") {
            self.need("(")?;
            self.claims()?
        } else {
            self.need("(")?;
            self.parentheses += 1;
            if self.parentheses > MAX_PARENTHESES {
                return Err(ExpressionError::Large);
            }
            let inner = self.any()?;
            self.parentheses -= 1;
            inner
        };
        self.need(")")?;
        Ok(if is_negated { Condition::Not(Box::new(condition)) } else { condition })
    }
}

fn one_or(mut parts: Vec<Condition>, all: fn(Vec<Condition>) -> Condition) -> Condition {
    match parts.len() {
        1 => parts.remove(0),
        _ => all(parts),
    }
}
