package remote

import "relay.example/relay/internal/passes"

// ForgetSlow forgets whose platform was slow: nobody is passed over.
func (k *Keeper) ForgetSlow() { k.slow = passes.NewSlow(slow, slowRest) }
