//! An expression with its name, as an element of lists: `NFTA_LIST_ELEM`.
//!
//! `net/netfilter/nf_tables_api.c`: `nf_tables_fill_expr_info`, `nft_expr_dump`.

use super::expr::Expr;
use crate::netfilter::netlink::{AttributeList, AttributeValue, BlockLayout, Emit, MessageWriter, Nest, Text};
use crate::netfilter::{Result, Visit, Visitor};

crate::netfilter::attributes! {
    /// An expression whose attributes are not parsed yet.
    Named {
        /// Name
        NFTA_EXPR_NAME = 1 => name: Text<'a>,
        /// Attributes; missing for expressions without any
        NFTA_EXPR_DATA = 2 => data: Option<Nest<'a>>,
    }
}

/// An expression with its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expression<'a> {
    /// The expression.
    pub expr: Expr<'a>,
    name: Text<'a>,
    has_data: bool,
    layout: BlockLayout<'a>,
}

impl<'a, E: Into<Expr<'a>>> From<E> for Expression<'a> {
    fn from(expr: E) -> Self {
        let expr = expr.into();
        let (name, has_data) = (Text::from(expr.name()), !matches!(expr, Expr::Notrack(_)));
        Self { expr, name, has_data, layout: BlockLayout::default() }
    }
}

impl<'a> AttributeValue<'a> for Expression<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let Named { name, data, layout } = Named::parse(bytes)?;
        let (text, body): (&'a [u8], &'a [u8]) = match (&name.0, &data) {
            (std::borrow::Cow::Borrowed(name), Some(Nest(std::borrow::Cow::Borrowed(data)))) => (name, data),
            (std::borrow::Cow::Borrowed(name), _) => (name, &[]),
            _ => (b"", &[]),
        };
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(Self { expr: Expr::parse(text, body)?, name, has_data: data.is_some(), layout })
    }
}

impl Emit for Expression<'_> {
    const NESTED: bool = true;

    fn emit(&self, out: &mut MessageWriter) {
        let mut block = self.layout.begin(out);
        for kind in self.layout.order(&[NFTA_EXPR_NAME, NFTA_EXPR_DATA]) {
            match kind {
                NFTA_EXPR_NAME => block.put(NFTA_EXPR_NAME, &self.name),
                _ if self.has_data => block.put(NFTA_EXPR_DATA, &self.expr),
                _ => {}
            }
        }
        block.end();
    }

    fn has_unknown(&self) -> bool {
        self.layout.has_unknown() || self.expr.has_unknown()
    }
}

impl Visit for Expression<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        self.expr.visit(visitor);
        self.layout.visit(visitor);
    }
}

/// Visits a statement of set elements, or a list of them. Only statements that the kernel allows there are kept;
/// anything else is zeroed.
pub fn visit_statements<V: Visitor>(statements: &mut Nest<'_>, list: bool, visitor: &mut V) {
    let bytes = statements.0.to_vec();
    let parsed = match list {
        true => AttributeList::<Expression<'_>>::parse(&bytes),
        false => Expression::parse(&bytes).map(|statement| vec![statement].into()),
    };
    let is_statement = |statement: &Expression<'_>| {
        matches!(
            statement.expr,
            Expr::Connlimit(_) | Expr::Counter(_) | Expr::Last(_) | Expr::Limit(_) | Expr::Quota(_)
        )
    };
    match parsed {
        Ok(mut parsed) if parsed.elements.iter().all(is_statement) => {
            parsed.visit(visitor);
            let mut out = MessageWriter::kernel();
            match parsed.elements.as_slice() {
                [statement] if !list => statement.emit(&mut out),
                _ => parsed.emit(&mut out),
            }
            statements.0 = out.finish().into();
        }
        _ => visitor.hidden(statements),
    }
}
