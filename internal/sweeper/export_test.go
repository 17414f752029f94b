package sweeper

// ExpireInterval is how often Run looks for deadlines.
const ExpireInterval = expireInterval
