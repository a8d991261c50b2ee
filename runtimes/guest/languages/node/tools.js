// The `tools` object: the host's tools as the snippet calls them, `await tools.<namespace>.<name>({argument: value})`.
'use strict'

const { inspect } = require('node:util')
const { describe, isPlain } = require('./values.js')

// A call gave no result. `code` names the reason; `retryable` says whether the same call may work later.
class ToolError extends Error {
  constructor (code, message, { retryable = false, details = {} } = {}) {
    super(message)
    Object.assign(this, { code, retryable, details })
  }
}
Object.defineProperty(ToolError.prototype, 'name', { value: 'ToolError', enumerable: false })

const STEP_FIELDS = {
  tool_id: 'tool_id',
  toolId: 'tool_id',
  arguments: 'arguments',
  use_previous: 'use_previous',
  usePrevious: 'use_previous',
  stop_on_error: 'stop_on_error',
  stopOnError: 'stop_on_error'
}
const CALL_FIELDS = { tool_id: 'tool_id', toolId: 'tool_id', arguments: 'arguments' }

// `ask(operation, fields)` gives the promise of a result, or of a ToolError.
function makeTools (ask) {
  // Async, so that whatever is wrong with a call rejects its promise.
  const camel = {
    runTool: async (toolId, given) => ask('run_tool', call(toolId, given)),
    runChain: async steps => ask('run_chain', { steps: [...steps].map((step, at) => item(step, `steps[${at}]`, STEP_FIELDS)) }),
    runParallel: async calls => ask('run_parallel', { calls: [...calls].map((one, at) => item(one, `calls[${at}]`, CALL_FIELDS)) }),
    searchTools: async (query = '', limit = 10) => ask('search_tools', { query, limit }),
    describeTool: async (toolId, level = 'summary') => ask('describe_tool', { tool_id: toolId, level }),
    listNamespaces: async () => ask('list_namespaces', {}),
    listToolExamples: async (toolId, limit = 5) => ask('list_tool_examples', { tool_id: toolId, limit })
  }
  const snake = Object.entries(camel).map(([name, operation]) => [name.replace(/[A-Z]/g, at => `_${at.toLowerCase()}`), operation])
  const own = { ...camel, ...Object.fromEntries(snake), ToolError }
  own[inspect.custom] = () => '<tools: await tools.<namespace>.<name>({argument: value}); await tools.searchTools(query) finds them>'
  return new Proxy(own, {
    get: (target, name) => Object.hasOwn(target, name) || isReserved(name) ? target[name] : tool(ask, name)
  })
}

// A tool, and as long as its id has one part, also a namespace of tools.
function tool (ask, id) {
  const target = async (...given) => {
    if (given.length > 1 || (given.length === 1 && !isPlain(given[0]))) {
      const spelling = `tools.${id.replace(':', '.')}`
      throw new TypeError(`tools take one object of arguments: ${spelling}({name: value})`)
    }
    return ask('run_tool', call(id, given[0]))
  }
  target[inspect.custom] = () => `<tool ${id}>`
  return new Proxy(target, {
    get: (target, name) => isReserved(name) ? target[name] : below(ask, id, name)
  })
}

function below (ask, id, name) {
  if (id.includes(':')) throw new TypeError(`'${id}' is a tool; for a version of it use tools.runTool('${id}:...')`)
  return tool(ask, `${id}:${name}`)
}

// JavaScript asks any object for such names, to see whether it is a promise or how to print it.
function isReserved (name) {
  return typeof name === 'symbol' || name === 'then' || name === 'toJSON' || name.startsWith('_')
}

function call (toolId, given = {}) {
  if (typeof toolId !== 'string') throw new TypeError(`a tool id is a string, not ${describe(toolId)}`)
  if (!isPlain(given)) throw new TypeError(`the arguments of '${toolId}' are an object, not ${describe(given)}`)
  return { tool_id: toolId, arguments: given }
}

function item (given, path, known) {
  const fields = Array.isArray(given) ? { tool_id: given[0], arguments: given[1] } : given
  if (!isPlain(fields)) throw new TypeError(`${path}: expected [toolId, arguments] or an object of ${Object.keys(known).join(', ')}`)
  const found = {}
  for (const [name, value] of Object.entries(fields)) {
    if (!Object.hasOwn(known, name)) throw new TypeError(`${path}: unknown field '${name}'; there are ${Object.keys(known).join(', ')}`)
    found[known[name]] = value
  }
  return { ...found, ...call(found.tool_id, found.arguments) }
}

module.exports = { ToolError, makeTools }
