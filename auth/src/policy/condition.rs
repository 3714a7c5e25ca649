//! Conditions: an expression in CEL about who asks, for what, from where and when.
//!
//! The expression is compiled when the rule is read, and there it is bounded: its length, its size, the
//! loops in it and the functions it calls. What remains costs microseconds, whatever attributes say.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr};
use cel::{Context, Env, IdedExpr, Program, Value};

use super::Question;
use crate::Permission;

/// The longest expression, in bytes.
const MAX_BYTES: usize = 2_000;
/// The most operators, calls, names and values in one, once its macros are written out.
const MAX_NODES: usize = 300;
/// The most loops (`all`, `exists`, `exists_one`, `map`, `filter`), none inside another.
const MAX_LOOPS: usize = 4;

/// What an expression may speak of.
const VARIABLES: [&str; 8] =
    ["identity", "kind", "groups", "attributes", "repository", "action", "client", "now"];

/// The functions an expression may call, besides the operators.
const FUNCTIONS: [&str; 26] = [
    "bool",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "int",
    "matches",
    "max",
    "min",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
];

/// CEL's own operators and functions, made once: each question would otherwise pay for the table.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Condition {
    program: Program,
    /// Whether its answer may differ between actions.
    pub(super) asks_action: bool,
}

/// What expressions see of a question; made once for all the rules that want it.
pub(super) struct Scene(Context<'static, 'static>);

impl Scene {
    /// Everything but the action.
    pub(super) fn of(question: &Question<'_>) -> Self {
        let identity = question.identity;
        let mut context = Context::with_env(Arc::clone(&LANGUAGE));
        let attributes: HashMap<String, String> = identity.attributes.clone().into_iter().collect();
        let client = match question.client {
            Some(address) => Value::from(address.to_canonical().to_string()),
            None => Value::Null,
        };
        context.add_variable_from_value("identity", identity.to_string());
        context.add_variable_from_value("kind", identity.kind().as_str());
        context.add_variable_from_value("groups", identity.groups.clone());
        context.add_variable_from_value("attributes", attributes);
        context.add_variable_from_value("repository", question.repository);
        context.add_variable_from_value("client", client);
        let now = chrono::DateTime::from_timestamp_millis(question.now).unwrap_or_default();
        context.add_variable_from_value("now", Value::Timestamp(now.fixed_offset()));
        Self(context)
    }
}

impl Condition {
    pub(super) fn compile(text: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("an expression has at most {MAX_BYTES} bytes"));
        }
        let program = LANGUAGE.compile(text).map_err(|errors| {
            let told =
                errors.errors.iter().map(|error| format!("column {}: {}", error.pos.1, error.msg.trim()));
            told.collect::<Vec<_>>().join("; ")
        })?;
        Survey::default().read(program.expression())?;
        let asks_action = program.references().has_variable("action");
        Ok(Self { program, asks_action })
    }

    /// Whether the condition holds; an error where it cannot be said.
    pub(super) fn holds(&self, scene: &Scene, action: Permission) -> Result<bool, String> {
        let mut context = scene.0.new_inner_scope();
        context.add_variable_from_value("action", action.as_str());
        match self.program.execute(&context) {
            Ok(Value::Bool(holds)) => Ok(holds),
            Ok(other) => Err(format!("the expression is a {}, neither true nor false", other.type_of())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What an expression is made of, counted while it is read.
#[derive(Default)]
struct Survey<'e> {
    nodes: usize,
    loops: usize,
    /// The names that the loop around gives its elements.
    bound: Vec<&'e str>,
}

impl<'e> Survey<'e> {
    fn read(&mut self, expression: &'e IdedExpr) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("the expression has more than {MAX_NODES} operators, names and values"));
        }
        match &expression.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => self.variable(name),
            Expr::Call(call) => {
                let name = call.func_name.as_str();
                if name.starts_with(|first: char| first.is_ascii_alphabetic()) && !FUNCTIONS.contains(&name) {
                    return Err(format!("there is no function {name}"));
                }
                call.target.iter().try_for_each(|target| self.read(target))?;
                call.args.iter().try_for_each(|argument| self.read(argument))
            }
            Expr::Select(select) => self.read(&select.operand),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.read(element)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => self.read(&entry.key).and_then(|()| self.read(&entry.value)),
                EntryExpr::StructField(field) => self.read(&field.value),
            }),
            Expr::Struct(of) => Err(format!("there is no type {}", of.type_name)),
            Expr::Comprehension(comprehension) => {
                self.loops += 1;
                if self.loops > MAX_LOOPS || !self.bound.is_empty() {
                    return Err(format!(
                        "at most {MAX_LOOPS} of all, exists, map and filter, none in another"
                    ));
                }
                self.read(&comprehension.iter_range)?;
                self.read(&comprehension.accu_init)?;
                self.bound.push(&comprehension.iter_var);
                self.bound.extend(comprehension.iter_var2.as_deref());
                self.bound.push(&comprehension.accu_var);
                self.read(&comprehension.loop_cond)?;
                self.read(&comprehension.loop_step)?;
                self.read(&comprehension.result)?;
                self.bound.clear();
                Ok(())
            }
        }
    }

    fn variable(&self, name: &str) -> Result<(), String> {
        // Types are names too: `type(client) == string`.
        const TYPES: [&str; 6] = ["string", "int", "bool", "list", "map", "null_type"];
        if VARIABLES.contains(&name) || self.bound.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        Err(format!("there is no variable {name}; there are {}", VARIABLES.join(", ")))
    }
}
