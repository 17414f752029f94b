package inquiry

import "time"

// SetTimeout changes how long one request may take, while nothing is asked.
func (a *Asker) SetTimeout(d time.Duration) { a.timeout = d }
