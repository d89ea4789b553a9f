"""Channels may be told of policies that wait for a review."""

import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('policies', '0007_budgets'),
    ]

    operations = [
        migrations.AlterField(
            model_name='notification',
            name='event',
            field=models.CharField(choices=[('approval.opened', 'an approval is asked for'), ('approval.escalated', 'an approval is escalated'), ('approval.decided', 'an approval is decided, expired or withdrawn'), ('approval.break_glass', 'somebody broke the glass'), ('policy.proposed', "a policy's draft waits for a review"), ('policy.decided', 'such a draft is approved, sent back, published or discarded'), ('kill_switch.used', 'the kill switch was used')], max_length=32),
        ),
        migrations.AlterField(
            model_name='notificationchannel',
            name='events',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('approval.opened', 'an approval is asked for'), ('approval.escalated', 'an approval is escalated'), ('approval.decided', 'an approval is decided, expired or withdrawn'), ('approval.break_glass', 'somebody broke the glass'), ('policy.proposed', "a policy's draft waits for a review"), ('policy.decided', 'such a draft is approved, sent back, published or discarded'), ('kill_switch.used', 'the kill switch was used')], max_length=32), blank=True, default=list, help_text='Empty: all.', size=None),
        ),
    ]
