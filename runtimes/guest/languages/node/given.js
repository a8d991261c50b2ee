// What a snippet gives to an operation of `tools`, as the fields that go to the gateway. Nothing given is ignored: what has
// no meaning is a TypeError that says what has. Values are for the gateway to judge.
'use strict'

const { describe, isPlain } = require('./values.js')

// By operation, what it takes in order, and what in an object after that.
const OPERATIONS = {
  runTool: [['tool_id', 'arguments'], ['timeout_seconds']],
  streamTool: [['tool_id', 'arguments'], ['timeout_seconds']],
  runChain: [['steps'], ['timeout_seconds']],
  streamChain: [['steps'], ['timeout_seconds']],
  runParallel: [['calls'], ['max_concurrent', 'timeout_seconds']],
  searchTools: [['query', 'limit'], ['namespace', 'tags']],
  listTools: [['limit', 'cursor'], ['query', 'namespace', 'tags']],
  describeTool: [['tool_id', 'level'], []],
  listNamespaces: [[], []],
  listToolExamples: [['tool_id', 'limit'], []]
}
const CALL_FIELDS = spellings(['tool_id', 'arguments', 'timeout_seconds'])
const STEP_FIELDS = spellings(['tool_id', 'arguments', 'timeout_seconds', 'use_previous', 'stop_on_error', 'mapping'])

// The fields of an operation, of what it was called with.
function fieldsOf (operation, given) {
  const [names, options] = OPERATIONS[operation]
  const values = given.slice(0, optionsAt(given, names, options))
  const rest = given.slice(values.length)
  if (rest.length > 1 || rest.some(one => !isPlain(one ?? {}) || (one && options.length === 0))) {
    throw new TypeError(`${operation} takes (${usage(names, options)}), and nothing else`)
  }
  const fields = known(rest[0] ?? {}, operation, 'option', spellings(options))
  for (const [at, value] of values.entries()) {
    if (value != null) fields[names[at]] = value
  }
  return { ...fields, ...checked(fields, names) }
}

function checked (fields, names) {
  if (names.includes('arguments')) return call(fields.tool_id, fields.arguments)
  if (names.includes('steps')) return { steps: items(fields.steps, 'steps', STEP_FIELDS) }
  if (names.includes('calls')) return { calls: items(fields.calls, 'calls', CALL_FIELDS) }
  return {}
}

// Options may come where an argument that is no object was left out: searchTools(words, {tags}).
function optionsAt (given, names, options) {
  const last = given.length - 1
  return options.length && last < names.length && names[last] !== 'arguments' && isPlain(given[last] ?? 0) ? last : names.length
}

function call (toolId, given) {
  if (typeof toolId !== 'string') throw new TypeError(`a tool id is a string, not ${describe(toolId)}`)
  const values = given ?? {}
  if (!isPlain(values)) throw new TypeError(`the arguments of '${toolId}' are an object, not ${describe(values)}`)
  return { tool_id: toolId, arguments: values }
}

function items (given, what, fields) {
  if (typeof given !== 'object' || typeof given?.[Symbol.iterator] !== 'function') {
    throw new TypeError(`${what} are an array, not ${describe(given)}`)
  }
  return Array.from(given, (one, at) => item(one, `${what}[${at}]`, fields))
}

function item (given, path, fields) {
  const pair = Array.isArray(given) && given.length <= 2
  const found = pair ? { tool_id: given[0], arguments: given[1] } : given
  if (!isPlain(found ?? 0)) {
    throw new TypeError(`${path}: expected [toolId, arguments] or an object of ${Object.keys(fields).join(', ')}`)
  }
  const clean = known(found, path, 'field', fields)
  return { ...clean, ...call(clean.tool_id, clean.arguments) }
}

// By its name on the wire, what was given under either spelling. What is undefined or null is not given.
function known (given, path, kind, names) {
  const found = {}
  for (const [name, value] of Object.entries(given)) {
    if (!Object.hasOwn(names, name)) throw new TypeError(`${path}: unknown ${kind} '${name}'; there are ${Object.keys(names).join(', ')}`)
    if (Object.hasOwn(found, names[name])) throw new TypeError(`${path}: '${name}' is given twice, in two spellings`)
    if (value != null) found[names[name]] = value
  }
  return found
}

function usage (names, options) {
  const object = options.length ? [`{${options.map(camel).join(', ')}}`] : []
  return [...names.map(camel), ...object].join(', ')
}

function spellings (names) {
  return Object.fromEntries(names.flatMap(name => [[name, name], [camel(name), name]]))
}

function camel (name) {
  return name.replace(/_[a-z]/g, at => at[1].toUpperCase())
}

function snake (name) {
  return name.replace(/[A-Z]/g, at => `_${at.toLowerCase()}`)
}

module.exports = { OPERATIONS, call, fieldsOf, snake }
