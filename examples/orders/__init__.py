"""Order fulfilment: a saga over an unreliable outside world. `perdure demo` runs it and kills it half-way."""
