package inquiry

import "time"

// SetTimeout changes how long one request may take, while nothing is asked.
func (a *Asker) SetTimeout(d time.Duration) { a.timeout = d }

// SetPoll changes how often Run looks for what is due when no question ends,
// before it runs.
func (a *Asker) SetPoll(d time.Duration) { a.poll = d }
